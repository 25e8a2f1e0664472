-- What does a solved task cost?
-- $run text = null: only this run
-- $price number = null: price of a million sampled tokens
-- A task is solved when any of its rollouts passed. Every attempt costs, so failed ones count too.
SELECT
  run_id,
  count(DISTINCT task_id) FILTER (WHERE passed) AS solved,
  count(*) AS rollouts,
  sum(n_sampled_tokens) / nullif(count(DISTINCT task_id) FILTER (WHERE passed), 0) AS tokens_each,
  sum(duration_s) / nullif(count(DISTINCT task_id) FILTER (WHERE passed), 0) AS seconds_each,
  sum(n_sampled_tokens) * $price::DOUBLE / 1e6 / nullif(count(DISTINCT task_id) FILTER (WHERE passed), 0) AS price_each
FROM rollouts
WHERE $run::VARCHAR IS NULL OR run_id = $run
GROUP BY run_id
ORDER BY tokens_each, run_id
