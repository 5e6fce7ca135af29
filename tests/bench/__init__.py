"""`make bench`: devenv against `docker compose`, on the same images, in the same run."""
