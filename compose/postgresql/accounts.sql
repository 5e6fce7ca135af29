-- The server runs this at every start, before it accepts connections. One statement per line.
SET exit_on_error = on

-- A comment on devenv's role says whose data this is. If it is another environment's (or this one's with older secrets), no other role can log in until devenv gives it a password again. Dropping the roles would take their databases along. The comment is set after that, so a server that is killed in between does it again.
DO $$ DECLARE other name; BEGIN IF shobj_description('devenv'::regrole, 'pg_authid') IS DISTINCT FROM '${secret.owner}' THEN FOR other IN SELECT rolname FROM pg_roles WHERE oid >= 16384 LOOP EXECUTE format('ALTER ROLE %I NOLOGIN PASSWORD NULL', other); END LOOP; END IF; END $$
ALTER ROLE devenv SUPERUSER LOGIN PASSWORD '${secret.password}'
COMMENT ON ROLE devenv IS '${secret.owner}'

-- Components connect to their own databases only.
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC

-- PostgreSQL has no CREATE DATABASE IF NOT EXISTS, so an error is expected from here on.
SET exit_on_error = off
SET log_min_messages = panic
CREATE DATABASE devenv TEMPLATE template0 STRATEGY file_copy
REVOKE ALL ON DATABASE devenv FROM PUBLIC
