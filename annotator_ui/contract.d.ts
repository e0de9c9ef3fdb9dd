/** What the JSON API says, in types: read by the checker only, never sent to a browser. */

type LayerRole = "foreground" | "background" | "blended";
type Access = "annotator" | "engineer" | "trainer" | "admin";
type RoundState = "open" | "paused" | "closed";

interface Me {
  name: string;
  kind: string;
  role: Access;
}

interface LayerAddress {
  url: string;
  width: number | null;
  height: number | null;
}

interface CardLayer {
  url: string;
  /** The same picture with at most 320 pixels on its longer side. */
  small: string;
  width: number;
  height: number;
}

interface Card {
  id: string;
  round: number;
  kind: "single" | "pair";
  prompt: string;
  flags: string[];
  layers: Partial<Record<LayerRole, CardLayer>>;
  signals: Record<string, number | null>;
  /** Of pairs: the texts of single layers. */
  texts: Partial<Record<LayerRole, string>>;
}

/** My own metrics: what may still be shown to me, my verdicts that stand, and those that accept. */
interface OwnProgress {
  waiting: number;
  mine: number;
  accepted: number;
}

interface TrayProgress extends OwnProgress {
  round: number | null;
}

interface TrayAnswer {
  candidates: Card[];
  progress: TrayProgress;
  /** Of those the page said it holds: the ones that are somebody else's now. */
  lost: string[];
}

interface DecisionBody {
  candidate: string;
  verdict: "accept" | "reject" | "skip";
  reasons: string[];
  /** Of pairs: which layer each reason concerns; empty otherwise. */
  layers: string[];
  comment: string;
  dwell_ms: number | null;
}

interface DecisionAnswer {
  decision: number;
  candidate: string;
  state: string;
}

interface UndoAnswer {
  decision: number;
  candidate: Card;
}

/** What became of one of several decisions or undos. */
interface Told<Answer> {
  taken: Answer | null;
  refused: { message: string; hint: string } | null;
}

/** A decision of mine that stands and can be undone. */
interface LatestRow {
  decision: number;
  verdict: DecisionBody["verdict"];
  reasons: string[];
  layers: LayerRole[];
  comment: string;
  candidate: Card;
}

/** The accepted sample that looks most like a candidate; `bits` of 192 differ, null where it was not screened. */
interface Nearest {
  sample: string;
  caption: string;
  round: number;
  bits: number | null;
  layers: Partial<Record<LayerRole, CardLayer>>;
}

interface Reason {
  name: string;
  key: string;
  label: string;
  /** Whether it makes no sense for a single layer. */
  pairs_only: boolean;
}

interface RoundRow {
  id: number;
  purpose: string;
  kind: string;
  state: RoundState;
  quota: number;
  checkpoint: string | null;
  opened_at: string;
  closed_at: string | null;
  /** For annotators only of states before review. */
  counts: Record<string, number>;
  /** Of whoever asks, in the list of rounds. */
  own: OwnProgress | null;
  policy?: Record<string, unknown>;
}

interface Interval {
  value: number;
  low: number;
  high: number;
  n: number;
}

interface RoundReport {
  round: RoundRow;
  funnel: Record<string, number>;
  refusals: { signal: string; count: number }[];
  reasons: { reason: string; layer: LayerRole | null; count: number; kind: "person" | "rule_reviewer" | "auto_reviewer" }[];
  /** Of pairs: how the signals of those drawn lie. */
  signals: { name: string; n: number; low: number; median: number; high: number }[];
  defects_per_100: { person: Interval | null; rule_reviewer: Interval | null };
  human: {
    seconds_per_accept: number | null;
    accepts_per_hour: number | null;
    decisions: number;
    reviewers: { name: string; kind: string; decisions: number; accepted: number; median_dwell_ms: number | null }[];
  };
  rule_reviewer: { decisions: number; accepted: number };
  /** What was decided without anybody having looked. */
  auto_reviewer: { decisions: number; accepted: number };
  price: {
    slices: {
      slice: string;
      looks: number;
      seconds: number | null;
      accepted: number;
      seconds_per_accept: number | null;
    }[];
    /** `certain` where all that is ahead has a score. */
    next_hour: { looks: number; left: number; accepts: number; certain: boolean } | null;
    stop: string | null;
  };
  /** Scores beyond which the machine decides, proven to err rarely. */
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
    /** `low` of the acceptable lost (of the accepted bad), at least. */
    audit: { judged: number; errors: number; low: number };
    stands: boolean;
    contradicted: boolean;
  }[];
  seconds_left: number | null;
  /** Drawings and screenings that have waited while no worker works. */
  untaken: Record<string, number>;
  evaluation: Record<string, number>;
}

interface SnapshotRow {
  id: string;
  samples: number;
  counts: Record<string, Record<string, number>>;
  tags: string[];
  frozen_at: string;
}

interface SampleRow {
  id: string;
  kind: "single" | "pair";
  caption: string;
  caption_source: "given" | "model" | "file name";
  texts: Partial<Record<LayerRole, string>>;
  licence: string;
  source: string;
  split: string;
  round: number;
  layers: Partial<Record<LayerRole, LayerAddress>>;
}

interface SnapshotPage {
  snapshot: SnapshotRow;
  samples: SampleRow[];
  next: string | null;
}

interface CheckpointRow {
  id: string;
  recipe: string;
  preset: string;
  /** Numbers of the preset that were set otherwise. */
  changes: Record<string, string>;
  /** Null for imported weights. */
  snapshot: string | null;
  parent: string | null;
  seed: number;
  code_version: string;
  evaluation: Record<string, number>;
  sample_grid_url: string | null;
  promoted_at: string | null;
  created_at: string;
  rounds: number[];
}

interface RunRow {
  id: string;
  recipe: string;
  preset: string;
  changes: Record<string, string>;
  snapshot: string;
  state: "requested" | "running" | "finished" | "failed" | "cancelled";
  /** Null until it has begun. */
  progress: { stage: string; done: number; total: number; metrics: Record<string, number> } | null;
  error: string | null;
  checkpoint: string | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
}

interface Share {
  value: number;
  low: number;
  high: number;
  n: number;
}

interface NoticedDefect {
  defect: string;
  kind: "single" | "pair";
  threshold: number;
  low: number;
  high: number;
  slope: number;
  guess: number;
  n: number;
}

/** What is known of one reviewer; null where it cannot be told yet. */
interface Standing {
  name: string;
  kind: string;
  role: Access;
  paused: string | null;
  decisions: number;
  accepted: Share | null;
  hours: number;
  decisions_per_hour: number | null;
  dwell_ms: { n: number; median: number | null; p90: number | null };
  undone: Share | null;
  not_counted: number;
  agreement: { alike: Share | null; ac1: Coefficient };
  gold: { noticed: Share | null; clean_accepted: Share | null; curves: NoticedDefect[] };
  facts: {
    run: { verdict: string; longest: number; expected: number; chance: number } | null;
    quick: Share | null;
    dwell_change_per_hour: Share | null;
    missed_early: Share | null;
    missed_late: Share | null;
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
  consensus: { rule: string; overlap: number; certainty: number; rule_reviewer_votes: boolean };
  adjudicating: number;
  pairs: (Agreement & { reviewers: string[] })[];
}
