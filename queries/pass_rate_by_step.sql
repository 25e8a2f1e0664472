-- How does the pass rate change over training steps?
-- $run text = null: only this run
SELECT
  run_id,
  step,
  count(*) AS rollouts,
  avg(passed::INT) AS pass_rate,
  avg(reward) AS mean_reward,
  avg((status = 'truncated')::INT) AS truncated,
  avg(n_sampled_tokens) AS mean_tokens
FROM final_rollouts
WHERE step IS NOT NULL AND ($run::VARCHAR IS NULL OR run_id = $run)
GROUP BY run_id, step
ORDER BY run_id, step
