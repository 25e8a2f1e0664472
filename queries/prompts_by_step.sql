-- How many prompts did each step issue, finish, train on, drop?
-- $run text = null: only this training run
SELECT
  run_id,
  step,
  count(round) AS issued,
  count(*) FILTER (WHERE round > 0) AS replacements,
  count(*) FILTER (WHERE round IS NULL) AS from_history,
  count(*) FILTER (WHERE n_finished > 0) AS finished,
  count(*) FILTER (WHERE state = 'trained') AS trained,
  count(*) FILTER (WHERE state = 'dropped') AS dropped,
  mode(reason) FILTER (WHERE state = 'dropped') AS reason
FROM prompt_ledger
WHERE $run::VARCHAR IS NULL OR run_id = $run
GROUP BY run_id, step
ORDER BY run_id, step
