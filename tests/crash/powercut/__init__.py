"""What the crash tests are made of: a recorder, a disk that loses power, a world, and one real device in it."""
