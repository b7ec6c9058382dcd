"""What each page shows, read from the database. No page changes anything."""
