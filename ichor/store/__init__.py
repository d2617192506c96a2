"""Where bytes lie: the spool of received objects, its journal, and blobs that are put once (results, manifests)."""
