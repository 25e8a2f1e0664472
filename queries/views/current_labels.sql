-- The labels, stars and notes that hold: the newest of a rollout, message, label and author, unless it was removed.
SELECT * EXCLUDE (removed) FROM (
    SELECT * FROM labels
    QUALIFY row_number() OVER (PARTITION BY rollout_id, message, label, author ORDER BY created_at DESC, row_id DESC) = 1
) WHERE NOT coalesce(removed, false)
