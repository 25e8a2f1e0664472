-- One row a message of a rollout's last attempt: its prompt's first, then what followed. `position` counts both from 0.
WITH prompted AS (
  SELECT prompt_id, messages AS asked
  FROM prompts
),
opened AS (
  SELECT
    rollout_id,
    run_id,
    step,
    task_id,
    environment,
    coalesce(len(asked), 0) AS n_asked,
    list_concat(coalesce(asked, []), coalesce(messages, [])) AS talk
  FROM final_rollouts
  LEFT JOIN prompted ON prompted.prompt_id = final_rollouts.prompt_id
),
numbered AS (
  SELECT rollout_id, run_id, step, task_id, environment, n_asked, unnest(range(len(talk))) AS position, unnest(talk) AS message
  FROM opened
)
SELECT
  rollout_id,
  run_id,
  step,
  task_id,
  environment,
  position,
  position < n_asked AS in_prompt,
  message.role AS role,
  message.text AS text,
  message.reasoning AS reasoning,
  message.tool_calls AS tool_calls,
  message.tool_call_id AS tool_call_id,
  message.parts AS parts
FROM numbered
