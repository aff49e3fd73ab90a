/* How often this process, SQLite in it included, asked the kernel to put something on the disk. */
#ifndef CS_BENCH_FSYNCS_H
#define CS_BENCH_FSYNCS_H

unsigned long fsyncs(void);

#endif
