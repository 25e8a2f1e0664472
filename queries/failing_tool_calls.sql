-- Which tool calls fail most often, with what result?
-- $run text = null: only this run
-- $limit integer = 20: number of rows
-- A tool message answers the latest call before it that has its tool_call_id; an answer counts as an error when it begins with the word.
WITH messages_of AS (
  SELECT rollout_id, position, role, text, tool_calls, tool_call_id
  FROM turns
  WHERE NOT in_prompt AND ($run::VARCHAR IS NULL OR run_id = $run)
),
called AS (
  SELECT rollout_id, position, unnest(tool_calls) AS call, unnest(range(len(tool_calls))) AS number
  FROM messages_of
  WHERE role = 'assistant'
),
calls AS (
  SELECT *, row_number() OVER (PARTITION BY rollout_id, position, call.id ORDER BY number) AS nth
  FROM called
),
results AS (
  SELECT answers.rollout_id, calls.position AS called_at, tool_call_id, text AS answer,
    row_number() OVER (PARTITION BY answers.rollout_id, calls.position, tool_call_id ORDER BY answers.position) AS nth
  FROM messages_of AS answers
  ASOF JOIN (FROM calls WHERE nth = 1) AS calls
    ON answers.rollout_id = calls.rollout_id AND answers.tool_call_id = calls.call.id AND answers.position > calls.position
  WHERE role = 'tool'
)
SELECT
  call.name AS tool,
  count(*) AS failures,
  count(DISTINCT calls.rollout_id) AS rollouts,
  call.arguments AS arguments,
  mode(left(answer, 200)) AS answer
FROM calls
JOIN results ON results.rollout_id = calls.rollout_id AND called_at = calls.position AND results.tool_call_id = call.id AND results.nth = calls.nth
WHERE regexp_matches(answer, '^\W*error', 'i')
GROUP BY tool, arguments
ORDER BY failures DESC, tool, arguments
LIMIT $limit::INT
