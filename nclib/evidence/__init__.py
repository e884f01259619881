"""Evidence: records of what was measured, claims with fixed thresholds, a judge, a ledger, and their origins."""
