"""Events for other systems: JSON lines and OCSF for a SIEM, Parquet for analysts."""
