"""The networks of the published pipelines, in torch: for training and export, never imported by what serves."""
