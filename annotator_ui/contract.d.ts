/** Types of the JSON API. Only the type checker reads this file; it is never sent to a browser. */

type LayerRole = "foreground" | "background" | "blended";
type Role = "annotator" | "engineer" | "trainer" | "admin";
type RoundState = "open" | "paused" | "closed";

interface CurrentReviewer {
  name: string;
  kind: string;
  role: Role;
  /** Where the session at the identity provider ends, if there is one. */
  sign_out_url?: string;
}

interface LayerUrl {
  url: string;
  /** Thumbnail: the same image, at most 320 pixels on the longer side. */
  small: string;
  width: number | null;
  height: number | null;
}

interface LayerImage {
  url: string;
  /** Thumbnail: the same image, at most 320 pixels on the longer side. */
  small: string;
  width: number;
  height: number;
}

interface ReviewItem {
  id: string;
  round: number;
  kind: "single" | "pair";
  prompt: string;
  flags: string[];
  layers: Partial<Record<LayerRole, LayerImage>>;
  signals: Record<string, number | null>;
  /** Pairs only: one text per layer. */
  texts: Partial<Record<LayerRole, string>>;
}

/** Counts of the signed-in reviewer: candidates waiting, own active verdicts, own accepts. */
interface OwnProgress {
  waiting: number;
  mine: number;
  accepted: number;
}

interface ClaimProgress extends OwnProgress {
  round: number | null;
}

interface ClaimResponse {
  candidates: ReviewItem[];
  progress: ClaimProgress;
  /** Candidates of the request's `holding` list that now belong to another reviewer. */
  lost: string[];
}

interface DecisionRequest {
  candidate: string;
  verdict: "accept" | "reject" | "skip";
  reasons: string[];
  /** Pairs only: the layer that each reason refers to; otherwise empty. */
  layers: string[];
  comment: string;
  dwell_ms: number | null;
}

interface DecisionResponse {
  decision: number;
  candidate: string;
  state: string;
}

interface UndoResponse {
  decision: number;
  candidate: ReviewItem;
}

/** Result of one decision or undo of a batch. */
interface BatchResult<Result> {
  taken: Result | null;
  refused: { message: string; hint: string } | null;
}

/** An active decision of the signed-in reviewer, which can be undone. */
interface RecentDecision {
  decision: number;
  verdict: DecisionRequest["verdict"];
  reasons: string[];
  layers: LayerRole[];
  comment: string;
  candidate: ReviewItem;
}

/** The accepted sample nearest to a candidate; `bits` of 192 hash bits differ, null if unknown. */
interface SimilarSample {
  sample: string;
  caption: string;
  round: number;
  bits: number | null;
  layers: Partial<Record<LayerRole, LayerImage>>;
}

interface Reason {
  name: string;
  key: string;
  label: string;
  /** Whether the reason applies to pairs only. */
  pairs_only: boolean;
}

interface LoopSummary {
  id: number;
  state: "running" | "paused" | "failed" | "finished" | "cancelled";
  step: "freeze" | "train" | "promote" | "open" | "review" | "finish";
  turn: number;
  rounds: number;
  quota: number;
  preset: string;
  reviewer: "person" | "rules";
  priority: number;
  reason: string | null;
  round: number | null;
  run: string | null;
  /** What the training of this turn has made. */
  checkpoint: string | null;
  budget: LoopLimits;
  spent: LoopLimits;
  started_at: string;
}

/** Limits of a loop, null where there is none, or what it has spent. */
interface LoopLimits {
  gpu_seconds: number | null;
  human_hours: number | null;
  accepted: number | null;
}

interface LoopDetails {
  loop: LoopSummary;
  recipe: string;
  images: number;
  kind: "single" | "pair";
  policy: Record<string, unknown>;
  gate: string[];
  diversity_guard: "stop" | "mix" | "off";
  turns: {
    turn: number;
    snapshot: string | null;
    run: string | null;
    checkpoint: string | null;
    /** Null before the gate decided. */
    promoted: boolean | null;
    gate: { condition: string; value: number | null; bound: number | null; passed: boolean }[];
    round: number | null;
    /** What the guard of diversity found and did before the training. */
    guard_note: string | null;
  }[];
  estimate: Record<string, { value: number | null; basis: string }>;
}

interface RoundSummary {
  id: number;
  purpose: string;
  kind: string;
  state: RoundState;
  quota: number;
  checkpoint: string | null;
  opened_at: string;
  closed_at: string | null;
  /** Candidates per state; annotators see only the states before review. */
  counts: Record<string, number>;
  /** Progress of the signed-in reviewer; set only in the list of rounds. */
  own: OwnProgress | null;
  policy?: Record<string, unknown>;
}

interface Interval {
  value: number;
  low: number;
  high: number;
  n: number;
}

interface EstimateWithInterval {
  value: number;
  low: number;
  high: number;
}

/** Figures of all rounds, oldest first, and the last round of each kind beside others. */
interface RoundTrend {
  rounds: {
    round: number;
    kind: string;
    state: RoundState;
    checkpoint: string | null;
    reviewer: "person" | "rule_reviewer" | null;
    figures: Record<
      "acceptance" | "defects_per_100" | "shape_and_color" | "vendi",
      EstimateWithInterval | null
    >;
  }[];
  comparisons: {
    round: number;
    earlier: number;
    figure: "acceptance" | "defects_per_100" | "shape_and_color" | "vendi";
    before: number;
    after: number;
    p: number;
    verdict: "better" | "worse" | "within chance";
  }[];
}

interface SteeredArm {
  arm: string;
  /** Shares among prompts at random, and in this round. */
  before: number;
  now: number;
  decisions: number;
  automatic: number;
  acceptance: Interval | null;
  reasons: { reason: string; count: number }[];
}

/** What was steered in a round, and why. */
interface Steering {
  settings: { goal: "accepts" | "learn"; random_share: number };
  /** Numbers of candidates. */
  random: number;
  steered: number;
  pool: { prompts: number; distinct: number };
  /** Earlier rounds with the decisions that it rests on. */
  rounds: number[];
  decisions: number;
  automatic: number;
  acceptance: Interval | null;
  arms: (SteeredArm & { candidates: number; floor: number; target: boolean })[];
  prompts: SteeredArm[];
  outcomes: {
    source: "random" | "steered";
    kind: "person" | "rule_reviewer";
    acceptance: Interval;
  }[];
}

interface RoundReport {
  round: RoundSummary;
  funnel: Record<string, number>;
  refusals: { signal: string; count: number }[];
  reasons: {
    reason: string;
    layer: LayerRole | null;
    count: number;
    kind: "person" | "rule_reviewer" | "auto_reviewer";
  }[];
  /** Pairs only: 10th percentile, median and 90th percentile of each signal. */
  signals: { name: string; n: number; low: number; median: number; high: number }[];
  defects_per_100: { person: Interval | null; rule_reviewer: Interval | null };
  human: {
    seconds_per_accept: number | null;
    accepts_per_hour: number | null;
    decisions: number;
    reviewers: {
      name: string;
      kind: string;
      decisions: number;
      accepted: number;
      median_dwell_ms: number | null;
    }[];
  };
  rule_reviewer: { decisions: number; accepted: number };
  /** Decisions of the auto-reviewer, without a human review. */
  auto_reviewer: { decisions: number; accepted: number };
  review_cost: {
    slices: {
      slice: string;
      reviews: number;
      seconds: number | null;
      accepted: number;
      seconds_per_accept: number | null;
    }[];
    /** `certain` if every waiting candidate has a score. */
    next_hour: { reviews: number; left: number; accepts: number; certain: boolean } | null;
    stop: string | null;
  };
  /** Score thresholds of automatic decisions, each with a bound on its error rate. */
  gates: {
    id: number;
    verdict: "accept" | "reject";
    interim_look: number;
    threshold: number;
    budget: number;
    level: number;
    share: number;
    lost: { k: number; n: number; low: number; high: number };
    wrong: { k: number; n: number; low: number; high: number };
    /** `low`: lower bound of the share of acceptable rejects (or of bad accepts). */
    audit: { judged: number; errors: number; low: number };
    stands: boolean;
    contradicted: boolean;
  }[];
  /** Diversity of what was drawn, as that of `size` candidates; null until it is measured. */
  diversity: {
    embedder: string;
    candidates: number;
    needed: number;
    size: number | null;
    first_round: number | null;
    figures: {
      name: "vendi" | "distance" | "recall";
      value: number;
      low: number;
      high: number;
      seeds: number | null;
      ratio: { value: number; low: number; high: number } | null;
    }[];
    lost: boolean;
  } | null;
  /** With the first round of its kind, and with the one before. */
  comparisons: RoundTrend["comparisons"];
  /** What a loop did when this round lost diversity. */
  diversity_guard: string | null;
  /** Null if prompts were not steered. */
  steering: Steering | null;
  seconds_left: number | null;
  /** Failed candidates by reason. */
  failures: Record<string, number>;
  /** What workers pause, and why. */
  pauses: string[];
  /** Generation and screening jobs that no worker has claimed, by kind. */
  waiting_work: Record<string, number>;
  evaluation: Record<string, number>;
}

interface SnapshotSummary {
  id: string;
  samples: number;
  counts: Record<string, Record<string, number>>;
  /** Numbers of decided candidates by verdict and other groups; null without them. */
  decisions: Record<string, Record<string, number>> | null;
  tags: string[];
  frozen_at: string;
  /** The conditions that the samples were chosen by. */
  query: Record<string, unknown> | null;
  parent: string | null;
  /** Differences of the counts from those of the parent. */
  change: Record<string, Record<string, number>> | null;
  /** Whether a takedown removed samples; `successor` has the others. */
  taken_down: boolean;
  successor: string | null;
  notes: string[];
}

/** Counts of values in bins of equal width between `low` and `high`. */
interface Histogram {
  low: number;
  high: number;
  median: number;
  counts: number[];
}

interface SnapshotStatistics {
  samples: number;
  /** The number of samples that were measured. */
  measured: number;
  caption_lengths: Histogram | null;
  words: { word: string; captions: number }[];
  signals: Record<string, Histogram>;
}

interface SnapshotChanges {
  parent: string | null;
  changes: {
    change: "added" | "removed" | "changed";
    fields: string[];
    /** The caption in the parent, if it changed. */
    before: string | null;
    sample: Sample;
  }[];
  next: string | null;
}

interface SampleLineage {
  id: string;
  caption: string;
  licence: string;
  source: string;
  split: string;
  round: number;
  withdrawn_at: string | null;
  /** Whether people can decide on it again; then its candidate is not shown. */
  open: boolean;
  candidate: {
    id: string;
    prompt: string;
    seed: number | null;
    round: number;
    purpose: string;
    checkpoint: string | null;
    propensity: number | null;
    decisions: { created_at: string; reviewer: string; verdict: string; reasons: string[] }[];
  } | null;
  snapshots: { id: string; tags: string[]; withheld: boolean }[];
  checkpoints: { id: string; snapshot_id: string; promoted_at: string | null }[];
}

interface CheckpointLineage {
  id: string;
  snapshot: string | null;
  /** Counts of its snapshot; null if that is not in this instance. */
  samples: number | null;
  counts: Record<string, Record<string, number>>;
  ancestors: { id: string; snapshot: string | null }[];
  rounds: { id: number; candidates: number; accepted: number }[];
  children: string[];
}

interface PullFormat {
  name: string;
  reader: string;
}

interface Sample {
  id: string;
  kind: "single" | "pair";
  caption: string;
  caption_source: "given" | "model" | "file name";
  texts: Partial<Record<LayerRole, string>>;
  licence: string;
  source: string;
  split: string;
  round: number;
  layers: Partial<Record<LayerRole, LayerUrl>>;
}

interface SnapshotPage {
  snapshot: SnapshotSummary;
  samples: Sample[];
  next: string | null;
}

interface Checkpoint {
  id: string;
  recipe: string;
  preset: string;
  /** Overridden preset values. */
  changes: Record<string, string>;
  /** Null for imported weights. */
  snapshot: string | null;
  parent: string | null;
  seed: number;
  code_version: string;
  evaluation: Record<string, number>;
  sample_grid_url: string | null;
  promoted_at: string | null;
  /** Whether new rounds are generated by it. */
  active: boolean;
  /** Whether samples that it was trained on were taken down since. */
  tainted: boolean;
  created_at: string;
  /** Whether it was trained on samples that were taken down. */
  tainted: boolean;
  /** The newest rounds that it generated. */
  rounds: number[];
}

/** What an operator watches. */
interface OperationsState {
  workers: {
    id: string;
    host: string;
    pid: number;
    queues: string[];
    version: string;
    state: "idle" | "busy" | "paused" | "draining";
    reason: string | null;
    job: string | null;
    last_error: string | null;
    started_at: string;
    seen_at: string;
    leases: { purpose: string; count: number; seconds_left: number }[];
  }[];
  queues: { job: string; count: number; oldest_seconds: number }[];
  rounds: { id: number; state: string; quota: number; candidates: Record<string, number> }[];
  webhooks: {
    id: number;
    /** The origin of its URL only. */
    receiver: string;
    events: string[];
    active: boolean;
    disabled_reason: string | null;
    failing_since: string | null;
    pending: number;
    delivered: number;
    failed: number;
    last: {
      event: string;
      state: "pending" | "delivered" | "failed";
      attempts: number;
      error: string | null;
      created_at: string;
    } | null;
  }[];
  labeling: string;
  projects: {
    round: number;
    part: number;
    server_url: string;
    remote_id: number | null;
    active: boolean;
    sending: number;
    open: number;
    annotated: number;
    not_accepted: number;
    decisions: number;
    pending: number;
    refused: number;
    pulled_at: string | null;
    error: string | null;
  }[];
  excluded_rounds: { round: number; reason: string }[];
  trouble: string[];
}

interface TrainingRun {
  id: string;
  recipe: string;
  preset: string;
  changes: Record<string, string>;
  snapshot: string;
  state: "requested" | "running" | "paused" | "finished" | "failed" | "cancelled";
  /** Null until the run starts. */
  progress: { stage: string; done: number; total: number; metrics: Record<string, number> } | null;
  /** Why the run ended, or why it waits. */
  error: string | null;
  priority: number;
  attempts: number;
  outages: number;
  retry_at: string | null;
  checkpoint: string | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
}

interface RunCurves {
  /** By stage and metric: images seen, and the mean of an interval. */
  stages: Record<string, Record<string, [number, number][]>>;
}

interface RunLog {
  lines: string[];
  /** The position after which to read on. */
  next: number;
}

interface DetectionCurve {
  defect: string;
  kind: "single" | "pair";
  threshold: number;
  low: number;
  high: number;
  slope: number;
  guess: number;
  n: number;
}

/** Statistics of one reviewer; null where there is not enough data. */
interface ReviewerStats {
  name: string;
  kind: string;
  role: Role;
  paused: string | null;
  decisions: number;
  accepted: Interval | null;
  hours: number;
  decisions_per_hour: number | null;
  dwell_ms: { n: number; median: number | null; p90: number | null };
  undone: Interval | null;
  not_counted: number;
  as_of: string | null;
  agreement: { alike: Interval | null; ac1: Coefficient };
  gold: { noticed: Interval | null; clean_accepted: Interval | null; curves: DetectionCurve[] };
  signs: {
    run: { verdict: string; longest: number; expected: number; chance: number } | null;
    quick: Interval | null;
    dwell_change_per_hour: Interval | null;
    missed_early: Interval | null;
    missed_late: Interval | null;
  };
}

interface Coefficient {
  value: number | null;
  low: number | null;
  high: number | null;
}

interface Agreement {
  decided_twice: number;
  agreed: number | null;
  alpha: Coefficient;
  ac1: Coefficient;
}

interface RoundAgreement extends Agreement {
  round: number;
  as_of: string | null;
  consensus: { rule: string; overlap: number; certainty: number; rule_reviewer_votes: boolean };
  adjudicating: number;
  pairs: (Agreement & { reviewers: string[] })[];
}

/** What reviewers compare: two sets of layers of one prompt and seed, without names. */
interface ComparisonItem {
  id: string;
  comparison: number;
  kind: "single" | "pair";
  prompt: string;
  texts: Partial<Record<LayerRole, string>>;
  left: Partial<Record<LayerRole, LayerImage>>;
  right: Partial<Record<LayerRole, LayerImage>>;
}

interface ComparisonProgress {
  waiting: number;
  mine: number;
}

interface ComparisonClaims {
  items: ComparisonItem[];
  progress: ComparisonProgress;
}

type ComparisonChoice = "left" | "right" | "equal" | "both_bad";

interface ComparedSide {
  checkpoint: string;
  method: "generated" | "matted";
}

interface Comparison {
  id: number;
  kind: "single" | "pair";
  a: ComparedSide;
  b: ComparedSide;
  segmenter: string | null;
  items: number;
  votes: number;
  seed: number;
  state: "open" | "closed";
  created_at: string;
  closed_at: string | null;
}

/** A share of `n` observations with its 95 % interval; null without observations. */
interface ShareWithInterval {
  value: number | null;
  low: number | null;
  high: number | null;
  n: number;
}

interface ReviewerVotes {
  reviewer: string;
  a: number;
  b: number;
  equal: number;
  both_bad: number;
  median_seconds: number | null;
}

interface ComparisonResult {
  a: number;
  b: number;
  equal: number;
  both_bad: number;
  undecided: number;
  win_rate: ShareWithInterval;
  p_two_sided: number;
  p_b_better: number;
  p_a_better: number;
  left_share: ShareWithInterval;
  agreement: ShareWithInterval;
  reviewers: ReviewerVotes[];
  drawings: Record<string, number>;
  sentence: string;
}

interface ComparisonWithResult {
  comparison: Comparison;
  result: ComparisonResult;
}
