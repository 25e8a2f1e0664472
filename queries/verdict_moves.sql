-- How do a scorer's verdicts differ from earlier ones?
-- $scorer text: the scorer of the new verdicts
-- $version text = null: its version; the latest verdict of each rollout if not given
-- $config text = null: the config_hash of its settings
-- $run text = null: only the rollouts of this run
-- $against text = collected: the scorer to compare with
-- $against_version text = null: its version
-- Verdicts are `passed`, `failed` or `none`.
WITH judged AS (
  SELECT rollout_id, scorer, scorer_version, config_hash, reward, passed, created_at, row_id FROM scores
  UNION ALL
  SELECT rollout_id, 'collected', NULL, NULL, reward, passed, NULL, NULL FROM rollouts
),
new AS (
  SELECT rollout_id, reward, passed
  FROM judged
  WHERE scorer = $scorer
    AND ($version::VARCHAR IS NULL OR scorer_version = $version)
    AND ($config::VARCHAR IS NULL OR config_hash = $config)
    AND ($run::VARCHAR IS NULL OR rollout_id IN (SELECT rollout_id FROM rollouts WHERE run_id = $run))
  QUALIFY row_number() OVER (PARTITION BY rollout_id ORDER BY created_at DESC, row_id DESC) = 1
),
old AS (
  SELECT rollout_id, reward, passed
  FROM judged
  WHERE scorer = $against AND ($against_version::VARCHAR IS NULL OR scorer_version = $against_version)
  QUALIFY row_number() OVER (PARTITION BY rollout_id ORDER BY created_at DESC, row_id DESC) = 1
)
SELECT
  CASE old.passed WHEN true THEN 'passed' WHEN false THEN 'failed' ELSE 'none' END AS before,
  CASE new.passed WHEN true THEN 'passed' WHEN false THEN 'failed' ELSE 'none' END AS after,
  count(*) AS rollouts,
  avg(old.reward) AS reward_before,
  avg(new.reward) AS reward_after,
  count(*) FILTER (WHERE old.reward <> new.reward) AS rewards_moved,
  any_value(new.rollout_id) AS example_id
FROM new
LEFT JOIN old ON old.rollout_id = new.rollout_id
GROUP BY before, after
ORDER BY before, after
