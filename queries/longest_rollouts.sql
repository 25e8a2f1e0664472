-- Which rollouts are the longest?
-- $run text = null: only this run
-- $limit integer = 20: number of rows
SELECT rollout_id, run_id, n_tokens, n_sampled_tokens AS sampled, n_turns AS turns, status, reward
FROM final_rollouts
WHERE $run::VARCHAR IS NULL OR run_id = $run
ORDER BY n_tokens DESC NULLS LAST, n_turns DESC NULLS LAST, rollout_id
LIMIT $limit::INT
