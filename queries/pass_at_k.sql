-- How likely is one of k samples to solve a task?
-- $k integer = 4: number of samples
-- $run text = null: only this run
-- Groups with fewer than k judged rollouts are left out; `groups` counts the others.
SELECT
  run_id,
  environment,
  count(*) AS groups,
  $k::INT AS k,
  avg(pass_at_1) AS pass_at_1,
  avg(pass_at(n_judged, n_passed, $k::INT)) AS pass_at_k
FROM groups
WHERE n_judged >= $k::INT AND ($run::VARCHAR IS NULL OR run_id = $run)
GROUP BY run_id, environment
ORDER BY run_id, environment
