"""For Airflow, which runs in an environment of its own: nothing here is imported by the jobs, and nothing of theirs here."""
