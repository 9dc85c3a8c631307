-- Two roles for a queue on PostgreSQL, made by the owner of its tables in the schema that holds them, once it is migrated:
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f postgresql-roles.sql
-- Give them to people and programs: GRANT orchestrator_producer TO somebody. Running it again changes nothing.

DO $$
DECLARE
    made text;
BEGIN
    FOREACH made IN ARRAY ARRAY['orchestrator_producer', 'orchestrator_operator'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = made) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', made);
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), made);
    END LOOP;
END
$$;

-- Who drops prompts in and reads what became of them, nothing else. LISTEN needs no right.
GRANT INSERT (custom_id, prompt, system, body, model, endpoint, completion_window, provider, priority, not_before, tag,
    metadata) ON prompts TO orchestrator_producer;
GRANT SELECT (id, custom_id) ON prompts TO orchestrator_producer;  -- for RETURNING id and ON CONFLICT (custom_id)
GRANT SELECT ON results, attempts, batches, progress TO orchestrator_producer;

-- Who may also correct, cancel, queue again and delete.
GRANT orchestrator_producer TO orchestrator_operator;
GRANT SELECT, UPDATE, DELETE ON prompts TO orchestrator_operator;
GRANT SELECT ON prompt_states TO orchestrator_operator;
GRANT UPDATE (status) ON prompt_states TO orchestrator_operator;
