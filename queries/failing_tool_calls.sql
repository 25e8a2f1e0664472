-- Which tool calls fail most often, with what result?
-- $run text = null: only this run
-- $limit integer = 20: number of rows
-- A tool message answers the call with its tool_call_id; it counts as an error if it begins with "error" in any case.
WITH messages_of AS (
  SELECT rollout_id, role, text, tool_calls, tool_call_id
  FROM turns
  WHERE NOT in_prompt AND ($run::VARCHAR IS NULL OR run_id = $run)
),
calls AS (
  SELECT rollout_id, unnest(tool_calls) AS call
  FROM messages_of
  WHERE role = 'assistant'
),
failures AS (
  SELECT rollout_id, tool_call_id, any_value(text) AS answer
  FROM messages_of
  WHERE role = 'tool' AND regexp_matches(text, '^\W*error', 'i')
  GROUP BY rollout_id, tool_call_id
)
SELECT
  call.name AS tool,
  count(*) AS failures,
  count(DISTINCT calls.rollout_id) AS rollouts,
  call.arguments AS arguments,
  mode(left(answer, 200)) AS answer
FROM calls
JOIN failures ON failures.rollout_id = calls.rollout_id AND failures.tool_call_id = call.id
GROUP BY tool, arguments
ORDER BY failures DESC, tool, arguments
LIMIT $limit::INT
