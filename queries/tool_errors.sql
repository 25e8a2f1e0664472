-- Which tools are called, and how often do they fail?
-- $run text = null: only this run
-- A tool message answers the latest call before it that has its tool_call_id; an answer counts as an error when it begins with the word.
WITH chosen AS (
  SELECT rollout_id, messages
  FROM final_rollouts
  WHERE $run::VARCHAR IS NULL OR run_id = $run
),
turns AS (
  SELECT rollout_id, unnest(range(len(messages))) AS position, unnest(messages) AS message
  FROM chosen
),
called AS (
  SELECT rollout_id, position, unnest(message.tool_calls) AS call, unnest(range(len(message.tool_calls))) AS number
  FROM turns
  WHERE message.role = 'assistant'
),
calls AS (
  SELECT *, row_number() OVER (PARTITION BY rollout_id, position, call.id ORDER BY number) AS nth
  FROM called
),
results AS (
  SELECT turns.rollout_id, calls.position AS called_at, message.tool_call_id AS call_id, message.text AS text,
    row_number() OVER (PARTITION BY turns.rollout_id, calls.position, message.tool_call_id ORDER BY turns.position) AS nth
  FROM turns
  ASOF JOIN (FROM calls WHERE nth = 1) AS calls
    ON turns.rollout_id = calls.rollout_id AND message.tool_call_id = calls.call.id AND turns.position > calls.position
  WHERE message.role = 'tool'
)
SELECT
  call.name AS tool,
  count(*) AS calls,
  count(*) FILTER (WHERE regexp_matches(results.text, '^\W*error', 'i')) AS errors,
  avg(regexp_matches(results.text, '^\W*error', 'i')::INT) AS error_rate,
  count(*) FILTER (WHERE results.text IS NULL) AS unanswered
FROM calls
LEFT JOIN results ON results.rollout_id = calls.rollout_id AND results.called_at = calls.position AND results.call_id = call.id AND results.nth = calls.nth
GROUP BY tool
ORDER BY errors DESC, calls DESC, tool
