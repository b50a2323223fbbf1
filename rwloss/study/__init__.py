"""Studies of maps by seeds: plan, execution, outcomes and statistics. Imports torch on use."""
