"""Harnesses that ship: a module each, whose function `run(task, client, **options)` plays a task with a framework."""
