"""What a program calls: one function per verb of the command line. Import from `autotok` itself."""
