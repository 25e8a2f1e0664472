-- How are rewards distributed?
-- $run text = null: only this run
-- $width number = 0.1: width of a bin; `reward` is where it begins
WITH binned AS (
  -- Rounded first: 0.3 / 0.1 is a little less than 3.
  SELECT floor(round(reward::DOUBLE / $width, 4)) AS bin, passed
  FROM final_rollouts
  WHERE reward IS NOT NULL AND ($run::VARCHAR IS NULL OR run_id = $run)
)
SELECT
  round(bin * $width, 6) AS reward,
  count(*) AS rollouts,
  count(*) / sum(count(*)) OVER () AS share,
  count(*) FILTER (WHERE passed) AS passed,
  repeat('#', ceil(20 * count(*) / max(count(*)) OVER ())::INT) AS bar
FROM binned
GROUP BY bin
ORDER BY bin
