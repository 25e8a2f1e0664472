-- What rewards did each run's rollouts get, and how did they end?
SELECT
  final_rollouts.run_id,
  any_value(runs.kind) AS kind,
  environment,
  count(*) AS rollouts,
  avg(reward) AS mean_reward,
  avg(passed::INT) AS pass_rate,
  count(*) FILTER (WHERE final_rollouts.status = 'truncated') AS truncated,
  count(*) FILTER (WHERE final_rollouts.status NOT IN ('completed', 'truncated')) AS failed
FROM final_rollouts
LEFT JOIN runs ON runs.run_id = final_rollouts.run_id
GROUP BY final_rollouts.run_id, environment
ORDER BY min(final_rollouts.started_at), final_rollouts.run_id, environment
