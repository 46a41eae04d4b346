"""What workers that consume queues share: long polls, metrics, logs, epochs, an end in good order."""
