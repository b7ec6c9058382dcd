"""The console's lists and what each row's page shows, one file a subject."""
