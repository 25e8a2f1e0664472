-- How did a metric change, step by step?
-- $run text: the run
-- $metric text = null: only this metric; all if not given
-- If several incarnations of the run took a step, the last one counts.
SELECT step, name, arg_max(value, incarnation) AS value
FROM metrics
WHERE run_id = $run AND ($metric::VARCHAR IS NULL OR name = $metric)
GROUP BY step, name
ORDER BY name, step
