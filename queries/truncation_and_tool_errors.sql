-- How many rollouts are truncated, and tool calls failed or unparsable?
-- $run text = null: only this run
-- truncated is a share of rollouts; tool_errors and unparsed are shares of the tool calls tried.
SELECT
  run_id,
  environment,
  count(*) AS rollouts,
  avg((status = 'truncated')::INT) AS truncated,
  sum(n_tool_calls)::BIGINT AS tool_calls,
  sum(n_tool_errors) / nullif(sum(n_tool_calls), 0) AS tool_errors,
  sum(n_parse_failures) / nullif(sum(n_tool_calls) + sum(n_parse_failures), 0) AS unparsed
FROM final_rollouts
WHERE $run::VARCHAR IS NULL OR run_id = $run
GROUP BY run_id, environment
ORDER BY run_id, environment
