-- The newest verdict of each scorer on each rollout.
SELECT rollout_id, scorer, scorer_version, reward, passed, components, error_type, config_hash, run_id, created_at
FROM scores
QUALIFY row_number() OVER (PARTITION BY rollout_id, scorer ORDER BY created_at DESC, row_id DESC) = 1
