"""Revision 0001 as PostgreSQL has it: the same tables, rules and views as `0001_queue.py`, in its own words.

Rows of `prompts` are written by many at once. Whoever decides by a prompt's state locks that row first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection

OWN_SCHEMA = """
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)
"""
"""Functions remember this path: whoever calls them, they work on our tables."""

BUSY_ROWS = "fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02"

TABLES = (
    """
    CREATE FUNCTION new_custom_id() RETURNS text LANGUAGE sql VOLATILE AS $$
        SELECT 'p-' || lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 11, '0')
            || '-' || right(replace(gen_random_uuid()::text, '-', ''), 16)
    $$
    """,
    """
    CREATE TABLE prompts (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        custom_id text COLLATE "C" NOT NULL DEFAULT new_custom_id() CONSTRAINT prompts_custom_id UNIQUE,
        model text,
        endpoint text DEFAULT '/v1/chat/completions',
        completion_window text,
        provider text,
        priority bigint NOT NULL DEFAULT 0,
        not_before timestamptz,
        tag text COLLATE "C",
        created_at timestamptz NOT NULL DEFAULT now(),
        metadata jsonb,
        system text,
        prompt text,
        body text,
        CONSTRAINT prompts_needs_prompt_or_body CHECK (prompt IS NOT NULL OR body IS NOT NULL),
        CONSTRAINT prompts_custom_id_is_1_to_64_printable_ascii
            CHECK (octet_length(custom_id) BETWEEN 1 AND 64 AND custom_id ~ '^[ -~]+$')
    )
    """,
    """
    CREATE TABLE lanes (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        provider text NOT NULL,
        endpoint text NOT NULL,
        completion_window text NOT NULL,
        model text NOT NULL,
        packed_at_ms bigint NOT NULL DEFAULT 0,
        held_until_ms bigint NOT NULL DEFAULT 0,
        holds integer NOT NULL DEFAULT 0,
        max_bytes bigint,
        CONSTRAINT lanes_provider_endpoint_completion_window_model
            UNIQUE (provider, endpoint, completion_window, model)
    )
    """,
    f"""
    CREATE TABLE prompt_states (
        prompt_id bigint PRIMARY KEY,
        status text NOT NULL DEFAULT 'queued',
        lane_id bigint,
        priority bigint NOT NULL DEFAULT 0,
        due_at_ms bigint NOT NULL,
        waiting integer NOT NULL DEFAULT 0,
        line_bytes integer NOT NULL,
        attempts integer NOT NULL DEFAULT 0,
        returns integer NOT NULL DEFAULT 0,
        forgiven integer NOT NULL DEFAULT 0,
        replies integer NOT NULL DEFAULT 0,
        cancelling integer NOT NULL DEFAULT 0,
        batch_id bigint,
        model text,
        finished_at_ms bigint,
        CONSTRAINT prompt_states_status_is_known
            CHECK (status IN ('queued', 'batched', 'done', 'failed', 'cancelled')),
        CONSTRAINT prompt_states_batched_has_batch CHECK ((status = 'batched') = (batch_id IS NOT NULL))
    ) WITH ({BUSY_ROWS})
    """,
    """
    CREATE INDEX prompt_states_unadmitted ON prompt_states (prompt_id) WHERE status = 'queued' AND lane_id IS NULL
    """,
    """
    CREATE INDEX prompt_states_ready ON prompt_states (lane_id, priority DESC, prompt_id, line_bytes, due_at_ms)
    WHERE status = 'queued' AND waiting = 0 AND lane_id IS NOT NULL
    """,
    """
    CREATE INDEX prompt_states_waiting ON prompt_states (due_at_ms) WHERE status = 'queued' AND waiting = 1
    """,
    """
    CREATE INDEX prompt_states_batched ON prompt_states (batch_id, prompt_id, line_bytes) WHERE status = 'batched'
    """,
    f"""
    CREATE TABLE batch_states (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        key text NOT NULL CONSTRAINT batch_states_key UNIQUE,
        lane_id bigint NOT NULL,
        status text NOT NULL,
        lines integer NOT NULL DEFAULT 0,
        nbytes bigint NOT NULL DEFAULT 0,
        lease_owner text,
        lease_until_ms bigint NOT NULL DEFAULT 0,
        fence integer NOT NULL DEFAULT 0,
        next_try_at_ms bigint NOT NULL DEFAULT 0,
        tries integer NOT NULL DEFAULT 0,
        empty_looks integer NOT NULL DEFAULT 0,
        input_file_id text,
        remote_batch_id text CONSTRAINT batch_states_remote_batch_id UNIQUE,
        output_file_id text,
        error_file_id text,
        remote_status text,
        remote_total bigint,
        remote_completed bigint,
        remote_failed bigint,
        remote_errors text,
        remote_expires_at_ms bigint,
        abandoned_remote_ids text NOT NULL DEFAULT '',
        output_cursor integer NOT NULL DEFAULT 0,
        error_cursor integer NOT NULL DEFAULT 0,
        output_first text,
        error_first text,
        cancel_requested boolean NOT NULL DEFAULT false,
        collect_due boolean NOT NULL DEFAULT false,
        reread boolean NOT NULL DEFAULT false,
        reread_news integer NOT NULL DEFAULT 0,
        rereads integer NOT NULL DEFAULT 0,
        lines_done integer NOT NULL DEFAULT 0,
        lines_failed integer NOT NULL DEFAULT 0,
        lines_resent integer NOT NULL DEFAULT 0,
        duplicates integer NOT NULL DEFAULT 0,
        unreadable integer NOT NULL DEFAULT 0,
        created_at_ms bigint NOT NULL,
        uploaded_at_ms bigint,
        submitted_at_ms bigint,
        polled_at_ms bigint,
        ended_at_ms bigint,
        settled_at_ms bigint,
        last_error text,
        last_error_at_ms bigint,
        CONSTRAINT batch_states_status_is_known CHECK (status IN ('packing', 'sealed', 'uploading', 'uploaded',
            'creating', 'submitted', 'replacing', 'ended', 'settled', 'discarded')),
        CONSTRAINT batch_states_submitted_has_remote_batch
            CHECK (status <> 'submitted' OR remote_batch_id IS NOT NULL)
    ) WITH ({BUSY_ROWS})
    """,
    """
    CREATE INDEX batch_states_active ON batch_states (status, next_try_at_ms)
    WHERE status NOT IN ('settled', 'discarded')
    """,
    """
    CREATE TABLE replies (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        prompt_id bigint,
        seq integer,
        batch_id bigint,
        attempt integer,
        fault text,
        status_code bigint,
        error_code text,
        error_message text,
        finish_reason text,
        prompt_tokens bigint,
        completion_tokens bigint,
        model text,
        received_at_ms bigint NOT NULL,
        answer text,
        response text,
        raw bytea,
        CONSTRAINT replies_prompt_id_seq UNIQUE (prompt_id, seq)
    )
    """,
    "CREATE INDEX replies_of_batch ON replies (batch_id, fault)",
    """
    CREATE TABLE provider_states (
        name text PRIMARY KEY,
        paused_at_ms bigint,
        resume_at_ms bigint NOT NULL DEFAULT 0,
        pauses integer NOT NULL DEFAULT 0,
        pause_reason text,
        paused_by text,
        max_file_bytes bigint,
        max_lines bigint,
        CONSTRAINT provider_states_paused_by_is_known CHECK (paused_by IN ('call', 'line'))
    )
    """,
)

REFUSED = "USING ERRCODE = 'integrity_constraint_violation'"
RAW_BYTES = " + ".join(f"coalesce(octet_length({{0}}{column}), 0)" for column in ("prompt", "system", "body"))
SENT_COLUMNS = "id, custom_id, prompt, system, body, model, endpoint, completion_window, provider"


def function(name: str, body: str, declared: str = "") -> str:
    """A trigger's function. It runs as the owner of the tables: who may INSERT a prompt need not write its state."""
    return (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT "
        f"AS $$ {declared} BEGIN {body} END $$"
    )


FUNCTIONS = (
    """
    CREATE FUNCTION now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
        SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
    $$
    """,
    """
    CREATE FUNCTION time_ms(at timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
        SELECT floor(extract(epoch FROM greatest(least(at, '9999-12-31 00:00Z'), '0001-01-01 00:00Z')) * 1000)::bigint
        WHERE at IS NOT NULL
    $$
    """,
    function(
        "prompts_fill_in",
        """
        NEW.custom_id := coalesce(NEW.custom_id, new_custom_id());
        NEW.priority := coalesce(NEW.priority, 0);
        NEW.created_at := coalesce(NEW.created_at, now());
        RETURN NEW;
        """,
    ),
    function(
        "prompts_get_a_state",
        f"""
        INSERT INTO prompt_states (prompt_id, priority, due_at_ms, line_bytes)
        SELECT id, priority, coalesce(time_ms(not_before), now_ms()), {RAW_BYTES.format("")} FROM arrived;
        IF FOUND THEN NOTIFY orchestrator_prompts; END IF;
        RETURN NULL;
        """,
    ),
    function(
        "prompts_in_a_batch_stay",
        f"""
        PERFORM 1 FROM prompt_states WHERE prompt_id = OLD.id FOR UPDATE;
        IF (SELECT status FROM prompt_states WHERE prompt_id = OLD.id) = 'batched' THEN
            RAISE EXCEPTION 'this prompt is in a batch and may be paid for: delete it when it has ended' {REFUSED};
        END IF;
        RETURN OLD;
        """,
    ),
    function(
        "prompts_take_their_state_along",
        """
        DELETE FROM replies USING gone WHERE replies.prompt_id = gone.id;
        DELETE FROM prompt_states USING gone WHERE prompt_states.prompt_id = gone.id;
        RETURN NULL;
        """,
    ),
    function(
        "prompts_are_not_emptied",
        f"RAISE EXCEPTION 'TRUNCATE would leave answers behind: use DELETE FROM prompts' {REFUSED};",
    ),
    function(
        "prompts_in_a_batch_stand",
        f"""
        PERFORM 1 FROM prompt_states WHERE prompt_id = OLD.id FOR UPDATE;
        IF NEW.id <> OLD.id OR (SELECT status FROM prompt_states WHERE prompt_id = OLD.id) IN ('batched', 'done') THEN
            RAISE EXCEPTION 'this prompt was sent as it stands: insert a new one instead' {REFUSED};
        END IF;
        RETURN NEW;
        """,
    ),
    function(
        "prompts_are_admitted_anew",
        f"""
        UPDATE prompt_states SET priority = NEW.priority WHERE prompt_id = NEW.id;
        UPDATE prompt_states SET lane_id = NULL, waiting = 0, due_at_ms = coalesce(time_ms(NEW.not_before), now_ms()),
            line_bytes = {RAW_BYTES.format("NEW.")}
        WHERE prompt_id = NEW.id AND status NOT IN ('batched', 'done');
        NOTIFY orchestrator_prompts;
        RETURN NULL;
        """,
    ),
    function(
        "prompt_states_refuse_the_move",
        f"""
        RAISE EXCEPTION 'no such move: set queued to cancelled, or failed and cancelled to queued' {REFUSED};
        """,
    ),
    function(
        "prompt_states_follow_their_user",
        """
        NEW.lane_id := NULL;
        NEW.waiting := 0;
        NEW.forgiven := NEW.attempts;
        NEW.returns := 0;
        NEW.cancelling := 0;
        NEW.due_at_ms := greatest(now_ms(), (SELECT time_ms(not_before) FROM prompts WHERE id = NEW.prompt_id));
        NEW.finished_at_ms := CASE NEW.status WHEN 'cancelled' THEN now_ms() END;
        NOTIFY orchestrator_prompts;
        RETURN NEW;
        """,
    ),
)


def triggers(legal_moves: str) -> tuple[str, ...]:
    """Those of one event fire in the order of their names."""
    return (
        """
        CREATE TRIGGER prompts_fill_in BEFORE INSERT ON prompts FOR EACH ROW
        WHEN (NEW.custom_id IS NULL OR NEW.priority IS NULL OR NEW.created_at IS NULL)
        EXECUTE FUNCTION prompts_fill_in()
        """,
        """
        CREATE TRIGGER prompts_get_a_state AFTER INSERT ON prompts REFERENCING NEW TABLE AS arrived
        FOR EACH STATEMENT EXECUTE FUNCTION prompts_get_a_state()
        """,
        """
        CREATE TRIGGER prompts_in_a_batch_stay BEFORE DELETE ON prompts
        FOR EACH ROW EXECUTE FUNCTION prompts_in_a_batch_stay()
        """,
        """
        CREATE TRIGGER prompts_take_their_state_along AFTER DELETE ON prompts REFERENCING OLD TABLE AS gone
        FOR EACH STATEMENT EXECUTE FUNCTION prompts_take_their_state_along()
        """,
        """
        CREATE TRIGGER prompts_are_not_emptied BEFORE TRUNCATE ON prompts
        FOR EACH STATEMENT EXECUTE FUNCTION prompts_are_not_emptied()
        """,
        f"""
        CREATE TRIGGER prompts_in_a_batch_stand BEFORE UPDATE OF {SENT_COLUMNS} ON prompts
        FOR EACH ROW EXECUTE FUNCTION prompts_in_a_batch_stand()
        """,
        f"""
        CREATE TRIGGER prompts_are_admitted_anew AFTER UPDATE OF {SENT_COLUMNS}, priority, not_before ON prompts
        FOR EACH ROW EXECUTE FUNCTION prompts_are_admitted_anew()
        """,
        f"""
        CREATE TRIGGER prompt_states_1_move_legally BEFORE UPDATE OF status ON prompt_states
        FOR EACH ROW WHEN (NEW.status <> OLD.status
            AND strpos(' {legal_moves} ', ' ' || OLD.status || '>' || NEW.status || ' ') = 0)
        EXECUTE FUNCTION prompt_states_refuse_the_move()
        """,
        """
        CREATE TRIGGER prompt_states_2_follow_their_user BEFORE UPDATE OF status ON prompt_states
        FOR EACH ROW WHEN (OLD.status <> 'batched' AND NEW.status <> OLD.status
            AND NEW.status IN ('queued', 'cancelled'))
        EXECUTE FUNCTION prompt_states_follow_their_user()
        """,
    )


def utc(column: str) -> str:
    return f"to_timestamp({column} / 1000.0)"


VIEWS = (
    f"""
    CREATE VIEW results AS
    SELECT p.id, p.custom_id, p.tag, s.status, r.answer, r.response, r.finish_reason, r.status_code, r.fault,
        r.error_code, r.error_message, s.attempts, coalesce(r.model, s.model, p.model) AS model, r.prompt_tokens,
        r.completion_tokens, coalesce(s.batch_id, r.batch_id) AS batch_id, p.created_at,
        {utc("s.finished_at_ms")} AS finished_at, p.metadata
    FROM prompts p
    JOIN prompt_states s ON s.prompt_id = p.id
    LEFT JOIN replies r ON r.prompt_id = s.prompt_id AND r.seq = s.replies
    """,
    f"""
    CREATE VIEW batches AS
    SELECT b.id, b.key, l.provider, l.endpoint, nullif(l.model, '') AS model, l.completion_window, b.status,
        b.remote_status, b.remote_batch_id, b.input_file_id, b.output_file_id, b.error_file_id, b.lines,
        b.nbytes AS bytes, b.remote_total, b.remote_completed, b.remote_failed,
        b.lines_done + b.lines_failed + b.lines_resent AS lines_received, b.lines_done, b.lines_failed, b.lines_resent,
        b.duplicates, b.unreadable, {utc("b.created_at_ms")} AS created_at, {utc("b.uploaded_at_ms")} AS uploaded_at,
        {utc("b.submitted_at_ms")} AS submitted_at, {utc("b.polled_at_ms")} AS polled_at,
        {utc("b.ended_at_ms")} AS ended_at, {utc("b.settled_at_ms")} AS settled_at,
        CASE WHEN b.status = 'submitted' THEN {utc("b.next_try_at_ms")} END AS next_poll_at,
        b.last_error, {utc("b.last_error_at_ms")} AS last_error_at
    FROM batch_states b JOIN lanes l ON l.id = b.lane_id
    """,
    f"""
    CREATE VIEW attempts AS
    SELECT r.id, r.prompt_id, p.custom_id, r.seq, r.attempt, r.batch_id, r.fault, r.status_code, r.error_code,
        r.error_message, {utc("r.received_at_ms")} AS received_at, r.raw
    FROM replies r LEFT JOIN prompts p ON p.id = r.prompt_id
    """,
    """
    CREATE VIEW progress AS
    SELECT p.tag, s.status, count(*) AS prompts, sum(r.prompt_tokens)::bigint AS prompt_tokens,
        sum(r.completion_tokens)::bigint AS completion_tokens
    FROM prompts p
    JOIN prompt_states s ON s.prompt_id = p.id
    LEFT JOIN replies r ON r.prompt_id = s.prompt_id AND r.seq = s.replies
    GROUP BY p.tag, s.status
    """,
)


def make(connection: Connection, legal_moves: str) -> None:
    for statement in (OWN_SCHEMA, *TABLES, *FUNCTIONS, *triggers(legal_moves), *VIEWS):
        connection.exec_driver_sql(statement)
