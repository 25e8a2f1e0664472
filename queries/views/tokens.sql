-- One row per token that the policy generated, in a rollout's last attempt.
-- `text` is what the token adds to the text of those before it; `text_gap` says why it is null.
-- `trainer_logprob` and `entropy` are the learner's before the update: of the run that collected the rollout where it trained on it, else of the last that did.
WITH trained AS (
  SELECT
    training_outcomes.rollout_id AS rollout_id,
    arg_max(trainer_logprobs, (training_outcomes.run_id = kept.run_id, training_outcomes.created_at, incarnation)) AS trainer_logprobs,
    arg_max(entropies, (training_outcomes.run_id = kept.run_id, training_outcomes.created_at, incarnation)) AS entropies
  FROM training_outcomes
  JOIN (SELECT rollout_id, run_id FROM rollouts) AS kept ON kept.rollout_id = training_outcomes.rollout_id
  WHERE use_index = 0
  GROUP BY training_outcomes.rollout_id
),
sampled AS (
  SELECT
    final_rollouts.rollout_id AS rollout_id,
    run_id,
    step,
    task_id,
    policy_id,
    list_where(range(len(token_ids)), loss_mask::BOOL[]) AS positions,
    list_where(token_ids, loss_mask::BOOL[]) AS ids,
    list_where(coalesce(token_texts(tokenizer_hash, token_ids), list_transform(token_ids, lambda id: NULL::VARCHAR)), loss_mask::BOOL[]) AS texts,
    token_text_gap(tokenizer_hash) AS text_gap,
    logprobs,
    trainer_logprobs,
    entropies
  FROM final_rollouts
  LEFT JOIN trained ON trained.rollout_id = final_rollouts.rollout_id
)
SELECT
  rollout_id,
  run_id,
  step,
  task_id,
  policy_id,
  unnest(positions) AS position,
  unnest(ids) AS token_id,
  unnest(texts) AS text,
  unnest(logprobs) AS logprob,
  unnest(trainer_logprobs) AS trainer_logprob,
  unnest(entropies) AS entropy,
  text_gap
FROM sampled
