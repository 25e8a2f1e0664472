-- Which tools are called, and how often do they fail?
-- $run text = null: only this run
-- A tool message answers the call with its tool_call_id; it counts as an error if it begins with "error" in any case.
WITH chosen AS (
  SELECT rollout_id, messages
  FROM final_rollouts
  WHERE $run::VARCHAR IS NULL OR run_id = $run
),
turns AS (
  SELECT rollout_id, unnest(messages) AS message
  FROM chosen
),
calls AS (
  SELECT rollout_id, unnest(message.tool_calls) AS call
  FROM turns
  WHERE message.role = 'assistant'
),
answers AS (
  SELECT rollout_id, message.tool_call_id AS call_id, any_value(message.text) AS text
  FROM turns
  WHERE message.role = 'tool'
  GROUP BY ALL
)
SELECT
  call.name AS tool,
  count(*) AS calls,
  count(*) FILTER (WHERE regexp_matches(answers.text, '^\W*error', 'i')) AS errors,
  avg(regexp_matches(answers.text, '^\W*error', 'i')::INT) AS error_rate,
  count(*) FILTER (WHERE answers.text IS NULL) AS unanswered
FROM calls
LEFT JOIN answers ON answers.rollout_id = calls.rollout_id AND answers.call_id = call.id
GROUP BY tool
ORDER BY errors DESC, calls DESC, tool
