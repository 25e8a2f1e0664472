-- The events of each run, folded into one row.
WITH starts AS (
  SELECT
    run_id,
    arg_min(kind, sequence) AS kind,
    arg_min(coalesce(name, run_id), sequence) AS name,
    min(created_at) AS started_at,
    max(incarnation) AS incarnation,
    arg_max(payload, sequence) AS config,
    max(sequence) AS last_start
  FROM run_events
  WHERE event IN ('started', 'resumed')
  GROUP BY run_id
),
ends AS (
  SELECT
    run_id,
    arg_max(event, sequence) AS status,
    max(created_at) AS finished_at,
    arg_max(payload, sequence) AS summary
  FROM run_events
  JOIN starts USING (run_id)
  WHERE event IN ('finished', 'failed', 'aborted') AND sequence > last_start
  GROUP BY run_id
)
SELECT run_id, kind, name, coalesce(status, 'running') AS status, started_at, finished_at, incarnation, config, summary
FROM starts
LEFT JOIN ends USING (run_id)
