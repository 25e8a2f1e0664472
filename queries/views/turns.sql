-- One row per message of a rollout's last attempt: the prompt's first, then the others. `position` counts both from 0.
WITH prompted AS (
  SELECT prompt_id, messages AS prompt_messages
  FROM prompts
),
opened AS (
  SELECT
    rollout_id,
    run_id,
    step,
    task_id,
    environment,
    coalesce(len(prompt_messages), 0) AS n_prompt_messages,
    list_concat(coalesce(prompt_messages, []), coalesce(messages, [])) AS talk
  FROM final_rollouts
  LEFT JOIN prompted ON prompted.prompt_id = final_rollouts.prompt_id
),
numbered AS (
  SELECT rollout_id, run_id, step, task_id, environment, n_prompt_messages, unnest(range(len(talk))) AS position, unnest(talk) AS message
  FROM opened
)
SELECT
  rollout_id,
  run_id,
  step,
  task_id,
  environment,
  position,
  position < n_prompt_messages AS in_prompt,
  message.role AS role,
  message.text AS text,
  message.reasoning AS reasoning,
  message.tool_calls AS tool_calls,
  message.tool_call_id AS tool_call_id,
  message.parts AS parts
FROM numbered
