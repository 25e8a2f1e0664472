-- What did a dataset version leave out, and why?
-- $dataset text: name of the dataset
-- $version integer = null: its version; the latest if not given
WITH chosen AS (
  SELECT version, unnest(dropped) AS gone
  FROM datasets
  WHERE name = $dataset
    AND version = coalesce($version::INT, (SELECT max(version) FROM datasets WHERE name = $dataset))
)
SELECT version, gone.reason AS reason, count(*) AS dropped, any_value(gone.id) AS example_id
FROM chosen
GROUP BY version, reason
ORDER BY dropped DESC, reason
