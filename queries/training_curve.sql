-- How did a metric go, step by step?
-- $run text: the run
-- $metric text = null: only this metric; all of them when not given
-- Where a step was taken by several incarnations of the run, the last counts.
SELECT step, name, arg_max(value, incarnation) AS value
FROM metrics
WHERE run_id = $run AND ($metric::VARCHAR IS NULL OR name = $metric)
GROUP BY step, name
ORDER BY name, step
