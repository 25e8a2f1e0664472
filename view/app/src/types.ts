// What the server's answers hold; the Python functions behind them say more.
export interface Run {
  run_id: string; kind: string; name: string; status: string; started_at: string; finished_at: string | null; incarnation: number;
  rollouts: number; reward?: number | null; pass_rate?: number | null; failures?: number; tokens?: number | null; environment?: string | null; step?: number | null;
  model: string | null; dataset: string | null; spark: number[] | null;
}
export interface Row {
  rollout_id: string; run_id: string; step: number | null; environment: string | null; category: string | null; status: string; reward: number | null;
  passed: boolean | null; policy_version: number | null; n_turns: number | null; n_tool_calls: number | null; n_tool_errors: number | null; n_tokens: number | null;
  group_id: string | null; task_id: string | null; sample_index: number | null; attempt: number | null; error_type: string | null; started_at: string | null;
  duration_s: number | null; staleness: number | null; advantage: number | null; kept: boolean | null; reason: string | null; marks: string[];
}
export interface PageOfRows { rows: Row[]; total: number; shown: number; sql: string }
export interface Counted { value: string | null; n: number }
export interface Facets {
  choices: Record<string, Counted[]>;
  ranges: Record<string, { low: number; high: number; bins: number[] }>;
  scorers: Counted[]; datasets: Counted[]; labels: Counted[];
}
export interface Call { id: string | null; name: string; arguments: string }
export interface Message { role: string; text: string | null; parts: string | null; reasoning: string | null; tool_calls: Call[] | null; tool_call_id: string | null }
export interface Component { name: string; value: number | null; weight: number | null }
export interface Score { scorer: string; scorer_version: string; reward: number | null; passed: boolean | null; components: Component[] | null; rationale: string | null; error_type: string | null; config_hash: string | null; run_id: string | null; created_at: string }
export interface Sample { run_id: string; step: number; plan_version: number | null; advantage: number | null; kept: boolean; reason: string | null; trained: boolean; ratio_mean: number | null; clipped_share: number | null }
export interface Rollout {
  rollout_id: string; slot_id: string | null; run_id: string; step: number | null; task_id: string | null; prompt_id: string | null; group_id: string | null; sample_index: number | null;
  attempt: number | null; episode_id: string | null; agent: string | null; branch: number | null; environment: string | null; policy_id: string | null; policy_version: number | null;
  policy_version_last: number | null; engine: string | null; messages: Message[] | null; n_prompt_tokens: number | null; n_tokens: number | null; n_sampled_tokens: number | null;
  n_turns: number | null; n_tool_calls: number | null; n_tool_errors: number | null; n_parse_failures: number | null; reward: number | null; reward_components: Component[] | null; rationale: string | null;
  passed: boolean | null; scorer: string | null; scorer_version: string | null; status: string; stop_reason: string | null; error_type: string | null; error_message: string | null;
  tokenizer_hash: string | null; prefix_ok: boolean | null; gaps: string[] | null; started_at: string | null; duration_s: number | null; generate_s: number | null; tool_s: number | null; verify_s: number | null;
}
export interface Details {
  rollout: Rollout;
  prompt: { messages: Message[]; tools: unknown[] };
  task: null | { task_id: string; environment: string; ground_truth: unknown; state: unknown; split: string | null; category: string | null; difficulty: number | null; source_key: string | null; extra: unknown };
  scores: Score[];
  evaluations: { run_id: string; benchmark: string; category: string | null; mode: string; sample: number; passed: boolean | null; score: number | null }[];
  labels: Label[];
}
export interface Label { message: number | null; label: string; note: string | null; author: string; created_at: string }
export interface Went {
  rollout_id: string;
  samples: Sample[];
  checkpoints: { checkpoint_id: string; step: number; run_id: string; trained_at: number; later: number }[];
  datasets: { name: string; version: number; kind: string; snapshot: string; inside: boolean; row: number | null; role: string | null; weight: number | null; reason: string | null }[];
  group: { rollout_id: string; sample_index: number | null; attempt: number | null; status: string; reward: number | null; passed: boolean | null; n_turns: number | null; advantage: number | null; kept: boolean | null; reason: string | null }[];
  relatives: { rollout_id: string; agent: string | null; branch: number | null; attempt: number | null; status: string; reward: number | null; same_slot: boolean | null }[];
}
export interface Strip {
  prompt_ids: number[]; ids: number[] | null; mask: number[] | null; logprobs: (number | null)[] | null; trainer: (number | null)[] | null; entropies: (number | null)[] | null; texts: Record<string, string>;
  spans: { start: number; version: number }[]; sample: Sample | null; samples: Sample[]; clip: [number, number] | null; prefix_ok: boolean | null; status: string; n_prompt_tokens: number | null;
}
export interface GroupRow {
  rollout_id: string; run_id: string; step: number | null; sample_index: number | null; attempt: number | null; agent: string | null; branch: number | null; trainable: boolean | null; status: string; error_type: string | null;
  reward: number | null; passed: boolean | null; policy_version: number | null; n_turns: number | null; n_tool_calls: number | null; n_tool_errors: number | null; n_tokens: number | null;
  batch_step: number | null; advantage: number | null; kept: boolean | null; reason: string | null; trained: boolean | null; final: boolean;
}
export interface GroupNode { rollouts: string[]; first: number; messages: (Message & { more: number })[]; hidden: number; ends: string[]; children: GroupNode[] }
export interface Group {
  group_id: string; run_id: string; step: number | null; task: Details["task"]; rows: GroupRow[]; left_out: Record<string, number>; tree: GroupNode; shown: number;
  n: number; n_scored: number; n_judged: number; n_passed: number; mean: number | null; std: number | null; zero_variance: boolean | null;
  near: { previous: string | null; next: string | null; position: number; total: number };
}
