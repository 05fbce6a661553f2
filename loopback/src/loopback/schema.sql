-- The tables of the store. The program runs this file at each start, so every statement says
-- IF NOT EXISTS. After a change to a table, raise VERSION in store.py.
-- Times: `..._at` is ISO 8601 text in UTC, as W&B shows it. Columns of type REAL are seconds since
-- 1970. Texts called config, summary, tags, metadata and so on hold JSON.

CREATE TABLE IF NOT EXISTS projects (
  id INTEGER PRIMARY KEY,
  entity TEXT NOT NULL,
  name TEXT NOT NULL,
  description TEXT,
  access TEXT,
  created_at TEXT NOT NULL,
  UNIQUE (entity, name)
);

CREATE TABLE IF NOT EXISTS sweeps (
  id INTEGER PRIMARY KEY,
  project_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  config TEXT NOT NULL,                   -- YAML, exactly as the client sent it
  state TEXT NOT NULL,                    -- a key of sweeps.TRANSITIONS, in upper case
  display_name TEXT,
  description TEXT,
  controller TEXT,                        -- JSON written by `wandb sweep --controller`
  scheduler TEXT,                         -- JSON that answers it: the runs it has scheduled
  exhausted INTEGER NOT NULL DEFAULT 0,   -- 1: the search has no further run to propose
  created_at TEXT NOT NULL,
  updated_at TEXT,
  heartbeat_at TEXT,
  UNIQUE (project_id, name)
);

CREATE TABLE IF NOT EXISTS agents (
  id INTEGER PRIMARY KEY,
  sweep_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  host TEXT NOT NULL,
  state TEXT NOT NULL,                    -- RUNNING, FINISHED or LOST
  seen REAL NOT NULL,                     -- time of the last heartbeat
  created_at TEXT NOT NULL,
  heartbeat_at TEXT
);

CREATE TABLE IF NOT EXISTS runs (
  id INTEGER PRIMARY KEY,
  project_id INTEGER NOT NULL,
  name TEXT NOT NULL,                     -- the run id that users see
  display_name TEXT,
  state TEXT NOT NULL,                    -- see lifecycle.py
  config TEXT NOT NULL DEFAULT '{}',      -- {"name": {"value": ...}, ...}
  summary TEXT NOT NULL DEFAULT '{}',
  tags TEXT NOT NULL DEFAULT '[]',
  notes TEXT,
  description TEXT,
  run_group TEXT,
  job_type TEXT,
  commit_hash TEXT,
  host TEXT,
  program TEXT,
  created_at TEXT NOT NULL,
  updated_at TEXT,
  heartbeat_at TEXT,
  exitcode INTEGER,
  stopped INTEGER NOT NULL DEFAULT 0,     -- 1: the sweep or a person has asked the run to stop
  sweep_id INTEGER,
  agent_id INTEGER,                       -- the agent that was assigned the run
  queued REAL,                            -- since when the run waits in its sweep's queue, or null
  attempts INTEGER NOT NULL DEFAULT 0,    -- how many times the run was assigned to an agent
  assigned_by TEXT,                       -- server process of the last assignment (SERVER_INSTANCE)
  missing REAL,                           -- since when its agent no longer reports it, or null
  seen REAL NOT NULL DEFAULT 0,           -- time of the last request of the run or of its agent
  version INTEGER NOT NULL DEFAULT 0,     -- number of the last change, counted over the whole store
  history_lines INTEGER NOT NULL DEFAULT 0,
  event_lines INTEGER NOT NULL DEFAULT 0,
  log_lines INTEGER NOT NULL DEFAULT 0,
  history_keys TEXT NOT NULL DEFAULT '{"keys": {}, "lastStep": -1}',
  UNIQUE (project_id, name)
);
CREATE INDEX IF NOT EXISTS runs_of_sweep ON runs (sweep_id, state);
CREATE INDEX IF NOT EXISTS runs_by_version ON runs (sweep_id, version);
CREATE INDEX IF NOT EXISTS runs_of_agent ON runs (agent_id);

-- Lines of the file stream, numbered from 0 per run: metrics, system metrics, console.

CREATE TABLE IF NOT EXISTS history (
  run_id INTEGER,
  line INTEGER,
  step INTEGER,
  row TEXT NOT NULL,
  PRIMARY KEY (run_id, line)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS history_by_step ON history (run_id, step);

CREATE TABLE IF NOT EXISTS events (
  run_id INTEGER,
  line INTEGER,
  row TEXT NOT NULL,
  PRIMARY KEY (run_id, line)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS console (
  run_id INTEGER,
  line INTEGER,
  row TEXT NOT NULL,
  PRIMARY KEY (run_id, line)
) WITHOUT ROWID;

-- Files of runs; the bytes are in runs/RUN_ID/NAME.
CREATE TABLE IF NOT EXISTS files (
  id INTEGER PRIMARY KEY,
  run_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  size INTEGER,
  md5 TEXT,
  updated_at TEXT,
  UNIQUE (run_id, name)
);

CREATE TABLE IF NOT EXISTS alerts (
  id INTEGER PRIMARY KEY,
  run_id INTEGER NOT NULL,
  title TEXT,
  text TEXT,
  severity TEXT,
  created_at TEXT NOT NULL
);

-- Reports and saved workspaces.
CREATE TABLE IF NOT EXISTS views (
  id INTEGER PRIMARY KEY,
  project_id INTEGER NOT NULL,
  type TEXT,
  name TEXT,
  display_name TEXT,
  description TEXT,
  spec TEXT,
  created_at TEXT NOT NULL,
  updated_at TEXT
);

-- A collection holds the versions of one artifact name. A row of `artifacts` is one version.

CREATE TABLE IF NOT EXISTS collections (
  id INTEGER PRIMARY KEY,
  project_id INTEGER NOT NULL,
  type TEXT NOT NULL,
  name TEXT NOT NULL,
  description TEXT,
  created_at TEXT NOT NULL,
  updated_at TEXT,
  client_id TEXT,
  UNIQUE (project_id, name)
);

CREATE TABLE IF NOT EXISTS artifacts (
  id INTEGER PRIMARY KEY,
  collection_id INTEGER NOT NULL,
  version INTEGER,                        -- null until the artifact is committed
  state TEXT NOT NULL,                    -- PENDING, COMMITTED or DELETED
  digest TEXT NOT NULL,
  description TEXT,
  metadata TEXT,
  tags TEXT NOT NULL DEFAULT '[]',
  history_step INTEGER,
  size INTEGER NOT NULL DEFAULT 0,
  file_count INTEGER NOT NULL DEFAULT 0,
  run_id INTEGER,                         -- the run that made it
  client_id TEXT,
  pending_aliases TEXT NOT NULL DEFAULT '[]',  -- aliases to set when the artifact is committed
  manifest TEXT,
  created_at TEXT NOT NULL,
  updated_at TEXT
);
CREATE INDEX IF NOT EXISTS artifacts_of_collection ON artifacts (collection_id, version);

-- Lists of an artifact's files; the list itself is in manifests/ID.
CREATE TABLE IF NOT EXISTS manifests (
  id INTEGER PRIMARY KEY,
  artifact_id INTEGER NOT NULL,
  type TEXT,
  digest TEXT,
  base_id INTEGER                         -- the artifact that a PATCH manifest changes
);

-- Files that an artifact will hold once it is committed. No deletion may free their bytes.
CREATE TABLE IF NOT EXISTS announced (
  artifact_id INTEGER,
  path TEXT,
  PRIMARY KEY (artifact_id, path)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS aliases (
  id INTEGER PRIMARY KEY,
  collection_id INTEGER NOT NULL,
  artifact_id INTEGER NOT NULL,
  alias TEXT NOT NULL,
  UNIQUE (collection_id, alias)
);

-- Which run has used which artifact.
CREATE TABLE IF NOT EXISTS uses (
  run_id INTEGER,
  artifact_id INTEGER,
  PRIMARY KEY (run_id, artifact_id)
);
