
-- For ${component.name}.
DO $$ BEGIN CREATE ROLE "${output.USER}"; EXCEPTION WHEN duplicate_object THEN NULL; END $$
ALTER ROLE "${output.USER}" LOGIN PASSWORD '${output.PASSWORD}'
CREATE DATABASE "${output.DATABASE}" OWNER "${output.USER}" TEMPLATE template0 STRATEGY file_copy
REVOKE ALL ON DATABASE "${output.DATABASE}" FROM PUBLIC
