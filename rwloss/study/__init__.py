"""Trainings over maps and seeds: plan, execution, outcomes and what they prove. Torch on use."""
