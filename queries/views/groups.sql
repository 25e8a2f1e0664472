-- One row per group of episodes that are compared: last attempts, trainable agents, the main branch of each.
-- std_reward is over the group (divisor n); zero_variance: all verdicts are equal; null without two verdicts.
-- pass_at_k[k] is pass@k for k from 1 to n_judged, the rollouts found to pass or not, but 128 at most: all would be n * n terms.
WITH counted AS (
  SELECT
    group_id,
    any_value(run_id) AS run_id,
    any_value(step) AS step,
    any_value(task_id) AS task_id,
    any_value(environment) AS environment,
    any_value(policy_id) AS policy_id,
    count(*) AS n,
    count(reward) AS n_scored,
    avg(reward) AS mean_reward,
    stddev_pop(reward) AS std_reward,
    min(reward) AS min_reward,
    max(reward) AS max_reward,
    count(passed) AS n_judged,
    count(*) FILTER (WHERE passed) AS n_passed,
    avg(passed::INT) AS pass_rate,
    CASE WHEN count(reward) > 1 THEN min(reward) = max(reward) END AS zero_variance
  FROM final_rollouts
  WHERE group_id IS NOT NULL AND coalesce(trainable, true) AND coalesce(branch, 0) = 0
  GROUP BY group_id
)
SELECT
  *,
  pass_rate AS pass_at_1,
  list_transform(range(1, least(n_judged, 128) + 1), lambda k: pass_at(n_judged, n_passed, k)) AS pass_at_k
FROM counted
