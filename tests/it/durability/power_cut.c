/*
 * Loaded into the broker by the tests of power cuts (LD_PRELOAD). After every fsync that succeeded it appends
 * "<inode> <bytes>" to the file that WEIR_TEST_SYNCED names: so many bytes of that file outlive a power cut. Each fsync
 * first waits up to WEIR_TEST_SYNC_MS milliseconds, as a slow disk does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int synced = -1;
static unsigned wait_ms;
static unsigned seed;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("WEIR_TEST_SYNCED"), *wait = getenv("WEIR_TEST_SYNC_MS");
  if (path) synced = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (wait) wait_ms = (unsigned)atoi(wait);
  seed = (unsigned)getpid();
}

static int sync_and_note(const char *name, int fd) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  struct stat before;
  int is_file = fstat(fd, &before) == 0 && S_ISREG(before.st_mode);
  if (wait_ms) usleep(1000 * (unsigned)(rand_r(&seed) % (int)(wait_ms + 1)));
  int result = real(fd);
  if (result == 0 && is_file && synced >= 0) {
    char line[64];
    int length = snprintf(line, sizeof line, "%llu %lld\n", (unsigned long long)before.st_ino, (long long)before.st_size);
    if (write(synced, line, (size_t)length) != length) abort();
  }
  return result;
}

int fsync(int fd) { return sync_and_note("fsync", fd); }
int fdatasync(int fd) { return sync_and_note("fdatasync", fd); }
