"""What people see: the report page, its tables and figures, and the record of a run."""
