"""The steps of a campaign: one iteration, its fixed batch, selection and the recorder."""
