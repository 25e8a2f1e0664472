-- Which rollouts look wrong, and why?
-- $run text = null: only this run
-- Ended rollouts only (completed, truncated). A tool message answers the call with its tool_call_id; it counts as an error if it begins with "error" in any case.
WITH chosen AS (
  SELECT rollout_id, run_id, environment, task_id, prompt_id, group_id, reward, prefix_ok, messages
  FROM final_rollouts
  WHERE status IN ('completed', 'truncated') AND ($run::VARCHAR IS NULL OR run_id = $run)
),
opened AS (
  SELECT chosen.rollout_id, chosen.run_id, chosen.prompt_id, coalesce(len(prompts.messages), 0) AS n_asked,
    list_concat(coalesce(prompts.messages, []), coalesce(chosen.messages, [])) AS talk
  FROM chosen
  LEFT JOIN prompts ON prompts.prompt_id = chosen.prompt_id
),
numbered AS (
  SELECT rollout_id, run_id, prompt_id, n_asked, unnest(range(len(talk))) AS position, unnest(talk) AS message
  FROM opened
),
talked AS (
  SELECT rollout_id, run_id, prompt_id, position, position < n_asked AS in_prompt, message.role AS role, message.text AS text, message.parts AS parts,
    message.reasoning AS reasoning, message.tool_calls AS tool_calls, message.tool_call_id AS tool_call_id,
    coalesce(message.text, '') || coalesce(message.parts, '') || coalesce(message.reasoning, '')
      || coalesce(array_to_string(list_transform(message.tool_calls, lambda call: call.name || ' ' || call.arguments), ' '), '') AS written
  FROM numbered
),
sampled AS (
  SELECT * FROM talked WHERE role = 'assistant' AND NOT in_prompt
),
calls AS (
  SELECT rollout_id, run_id, prompt_id, position, in_prompt, unnest(tool_calls) AS call
  FROM talked
  WHERE role = 'assistant' AND len(tool_calls) > 0
),
answers AS (
  SELECT rollout_id, run_id, position, in_prompt, tool_call_id, coalesce(regexp_matches(text, '^\W*error', 'i'), false) AS failed
  FROM talked
  WHERE role = 'tool'
),
tools_of AS (
  SELECT prompt_id, unnest(from_json(tools, '["JSON"]')) AS tool
  FROM prompts
  WHERE prompt_id IN (SELECT prompt_id FROM chosen) AND json_valid(tools)
),
schemas AS (
  SELECT prompt_id, coalesce(tool ->> '$.function.name', tool ->> '$.name') AS name,
    any_value(coalesce(tool -> '$.function.parameters', tool -> '$.parameters')) AS parameters
  FROM tools_of
  GROUP BY ALL
),
checked AS (
  SELECT calls.rollout_id, calls.run_id, call.name AS name, CASE WHEN json_valid(call.arguments) THEN call.arguments END AS arguments, parameters,
    CASE WHEN json_valid(call.arguments) THEN json_type(call.arguments) = 'OBJECT' ELSE false END AS is_object
  FROM calls
  JOIN schemas ON schemas.prompt_id = calls.prompt_id AND schemas.name = call.name
  WHERE NOT in_prompt
),
given AS (
  SELECT rollout_id, run_id, name, key, json_extract(arguments, '/' || replace(replace(key, '~', '~0'), '/', '~1')) AS value,
    parameters, json_extract(parameters, '/properties/' || replace(replace(key, '~', '~0'), '/', '~1')) AS declared
  FROM (SELECT *, unnest(json_keys(arguments)) AS key FROM checked WHERE is_object)
),
typed AS (
  SELECT rollout_id, run_id, name, key, declared ->> '$.type' AS wanted, json_type(declared -> '$.type') AS kind, declared -> '$.enum' AS choices, value,
    CASE json_type(value) WHEN 'VARCHAR' THEN 'string' WHEN 'BOOLEAN' THEN 'boolean' WHEN 'ARRAY' THEN 'array' WHEN 'OBJECT' THEN 'object'
      WHEN 'NULL' THEN 'null' WHEN 'DOUBLE' THEN 'number' ELSE 'integer' END AS found
  FROM given
  WHERE declared IS NOT NULL
),
misfits AS (
  SELECT rollout_id, run_id, name || ': the arguments are not a JSON object' AS detail FROM checked WHERE NOT is_object
  UNION ALL
  SELECT rollout_id, run_id, name || ': ' || needed || ' is missing' AS detail
  FROM (SELECT *, unnest(from_json(coalesce(parameters -> '$.required', '[]'), '["VARCHAR"]')) AS needed FROM checked WHERE is_object)
  WHERE NOT list_contains(json_keys(arguments), needed)
  UNION ALL
  SELECT rollout_id, run_id, name || ': ' || key || ' is not declared' AS detail
  FROM given
  WHERE declared IS NULL AND json_type(parameters -> '$.properties') = 'OBJECT'
    AND coalesce(json_type(parameters -> '$.additionalProperties'), 'BOOLEAN') = 'BOOLEAN' AND coalesce(parameters ->> '$.additionalProperties', 'false') = 'false'
  UNION ALL
  SELECT rollout_id, run_id, name || ': ' || key || ' is of type ' || found || ', not ' || wanted AS detail
  FROM typed
  WHERE kind = 'VARCHAR' AND wanted IN ('string', 'integer', 'number', 'boolean', 'array', 'object', 'null') AND found <> wanted
    AND NOT (wanted = 'number' AND found = 'integer') AND NOT (wanted = 'integer' AND found = 'number' AND (value::DOUBLE) = floor(value::DOUBLE))
  UNION ALL
  SELECT rollout_id, run_id, name || ': ' || key || ' is none of its choices' AS detail
  FROM typed
  WHERE json_type(choices) = 'ARRAY' AND NOT list_contains(from_json(choices, '["JSON"]'), value)
),
lengths AS (
  SELECT rollout_id, any_value(sampled.run_id) AS run_id, any_value(environment) AS environment, count(*) AS turns, sum(length(written)) AS signs
  FROM sampled
  JOIN chosen USING (rollout_id)
  GROUP BY rollout_id
),
typical AS (
  SELECT run_id, environment, median(signs) AS signs, count(*) AS rollouts FROM lengths GROUP BY ALL
),
rewarded AS (
  SELECT run_id, environment, reward, count(*) OVER same AS rollouts, min(reward) OVER same AS least, max(reward) OVER same AS most, rollout_id
  FROM chosen
  WHERE reward IS NOT NULL
  WINDOW same AS (PARTITION BY run_id, environment)
),
repeated AS (
  SELECT rollout_id, run_id, row_number() OVER same AS number, min(rollout_id) OVER same AS first
  FROM chosen
  WHERE len(messages) > 0
  WINDOW same AS (PARTITION BY run_id, prompt_id, md5(list_transform(messages, lambda message: {
    role: message.role, text: message.text, parts: message.parts, reasoning: message.reasoning,
    calls: list_transform(coalesce(message.tool_calls, []), lambda call: [call.name, call.arguments])})::VARCHAR) ORDER BY rollout_id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
),
findings AS (
  SELECT 'no_turns' AS finding, chosen.rollout_id, chosen.run_id, 'the policy wrote nothing' AS detail
  FROM chosen
  WHERE rollout_id NOT IN (SELECT rollout_id FROM sampled)
  UNION ALL
  SELECT 'empty_turn', rollout_id, run_id, 'message ' || position FROM sampled WHERE trim(written, E' \t\r\n') = ''
  UNION ALL
  SELECT 'ends_on_failed_call', rollout_id, run_id, 'the last result is an error'
  FROM (SELECT rollout_id, run_id, arg_max(failed, position) AS failed FROM answers WHERE NOT in_prompt GROUP BY ALL)
  WHERE failed
  UNION ALL
  SELECT 'repeated_turn', rollout_id, run_id, 'message ' || position
  FROM (SELECT *, lag(written) OVER (PARTITION BY rollout_id ORDER BY position) AS before FROM sampled)
  WHERE written = before AND trim(written, E' \t\r\n') <> ''
  UNION ALL
  SELECT 'runaway_length', rollout_id, lengths.run_id, lengths.signs || ' characters in ' || turns || ' turns'
  FROM lengths
  JOIN typical ON typical.run_id = lengths.run_id AND typical.environment IS NOT DISTINCT FROM lengths.environment
  WHERE lengths.signs > 200000 OR turns > 200 OR (rollouts > 2 AND lengths.signs > 5000 AND lengths.signs > 10 * typical.signs)
  UNION ALL
  SELECT 'unknown_tool', rollout_id, run_id, call.name
  FROM calls
  WHERE NOT in_prompt AND prompt_id IN (SELECT prompt_id FROM schemas) AND (prompt_id, call.name) NOT IN (SELECT (prompt_id, name) FROM schemas)
  UNION ALL
  SELECT 'no_tool_schemas', rollout_id, run_id, call.name
  FROM calls
  WHERE NOT in_prompt AND prompt_id NOT IN (SELECT prompt_id FROM schemas)
  UNION ALL
  SELECT 'arguments_off_schema', rollout_id, run_id, detail FROM misfits
  UNION ALL
  SELECT 'result_without_call', rollout_id, run_id, 'message ' || position
  FROM answers
  WHERE NOT EXISTS (
    FROM calls WHERE calls.rollout_id = answers.rollout_id AND calls.position < answers.position AND calls.call.id = answers.tool_call_id
  )
  UNION ALL
  SELECT 'call_without_result', rollout_id, run_id, call.name
  FROM calls
  WHERE NOT in_prompt AND position < (SELECT max(position) FROM sampled WHERE sampled.rollout_id = calls.rollout_id)
    AND NOT EXISTS (FROM answers WHERE answers.rollout_id = calls.rollout_id AND answers.position > calls.position AND answers.tool_call_id = calls.call.id)
  UNION ALL
  SELECT 'prefix_break', rollout_id, run_id, 'a prompt does not begin with all tokens before it' FROM chosen WHERE NOT prefix_ok
  UNION ALL
  SELECT 'one_reward', rollout_id, run_id, 'all ' || rollouts || ' rewards of ' || coalesce(environment, 'no environment') || ' are ' || reward
  FROM rewarded
  WHERE rollouts > 3 AND least = most
  UNION ALL
  SELECT 'duplicate_trajectory', rollout_id, run_id, 'as ' || first FROM repeated WHERE number > 1
)
SELECT finding, run_id, count(DISTINCT rollout_id) AS rollouts, min(rollout_id) AS example, arg_min(detail, rollout_id) AS detail
FROM findings
GROUP BY finding, run_id
ORDER BY rollouts DESC, finding, run_id
