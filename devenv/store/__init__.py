"""Remember things on disk: state, records, locks, files written safely."""
