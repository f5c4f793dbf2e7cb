/* Where sockets are: names, paths, directories. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "handshake.h"
#include "server.h"

static const char tmp_prefix[] = "/tmp/attnd-";

enum att_status att_name_check(const char *name, struct att_error *error)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t length = strlen(name);
    if (length >= 1 && length <= ATT_NAME_MAX && strspn(name, letters) == length)
        return ATT_OK;
    return att_fail(error, ATT_EINVAL,
                    "the name \"%.80s\" is not 1 to %d letters, digits, dots, dashes and underscores", name,
                    ATT_NAME_MAX);
}

enum att_status att_socket_path(const char *name, char *ret_path, size_t size, struct att_error *error)
{
    char path[PATH_MAX];
    int length;
    if (!name)
        name = "default";
    enum att_status status = att_name_check(name, error);
    if (status != ATT_OK)
        return status;
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (runtime && runtime[0] == '/')
        length = snprintf(path, sizeof path, "%s/attnd/%s.sock", runtime, name);
    else if (geteuid() == 0)
        length = snprintf(path, sizeof path, "/run/attnd/%s.sock", name);
    else
        length = snprintf(path, sizeof path, "%s%u/%s.sock", tmp_prefix, (unsigned)geteuid(), name);
    if (length < 0 || (size_t)length >= sizeof path)
        return att_fail(error, ATT_EINVAL, "XDG_RUNTIME_DIR is too long for a socket's path");
    struct sockaddr_un address;
    status = att_socket_address(path, &address, error);
    if (status != ATT_OK)
        return status;
    if ((size_t)length >= size)
        return att_fail(error, ATT_EINVAL, "the socket path %s does not fit into %zu bytes", path, size);
    memcpy(ret_path, path, (size_t)length + 1);
    return ATT_OK;
}

enum att_status att_socket_address(const char *path, struct sockaddr_un *ret_address, struct att_error *error)
{
    size_t length = strlen(path);
    if (length == 0)
        return att_fail(error, ATT_EINVAL, "the socket path is empty");
    if (length > ATT_SOCKET_PATH_MAX)
        return att_fail(error, ATT_EINVAL,
                        "the socket path %.300s has %zu characters, and a socket's path at most %d: "
                        "give a shorter one with --socket",
                        path, length, ATT_SOCKET_PATH_MAX);
    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret_address->sun_path, path, length + 1);
    return ATT_OK;
}

/* The directory part of a path; "." without one. Paths here have passed att_socket_address. */
static void directory_of(const char *path, char directory[ATT_SOCKET_PATH_MAX + 1])
{
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 1;
    memcpy(directory, slash ? path : ".", length);
    if (length == 0)
        directory[length++] = '/';
    directory[length] = '\0';
}

enum att_status att_socket_check_directory(const char *path, struct att_error *error)
{
    char directory[ATT_SOCKET_PATH_MAX + 1];
    struct stat file;
    if (strncmp(path, tmp_prefix, sizeof tmp_prefix - 1) != 0)
        return ATT_OK;
    directory_of(path, directory);
    if (lstat(directory, &file) != 0)
        return ATT_OK;
    if (!S_ISDIR(file.st_mode) || file.st_uid != geteuid() || (file.st_mode & (S_IWGRP | S_IWOTH)))
        return att_fail(error, ATT_EPERM,
                        "%s is not a directory that only you can write: whoever listens there may not be your "
                        "daemon; set XDG_RUNTIME_DIR or give --socket",
                        directory);
    return ATT_OK;
}

enum att_status att_socket_make_directory(const char *path, bool shared, struct att_error *error)
{
    char directory[ATT_SOCKET_PATH_MAX + 1];
    directory_of(path, directory);
    if (mkdir(directory, 0700) == 0) {
        if (shared && chmod(directory, 0711) != 0)
            return att_fail(error, ATT_EIO, "cannot open %s to the allowed users: %s", directory, strerror(errno));
        return ATT_OK;
    }
    if (errno == EEXIST)
        return ATT_OK;
    return att_fail(error, errno == ENOENT ? ATT_ENOENT : ATT_EIO,
                    "cannot make the socket's directory %s: %s; give another path with --socket", directory,
                    strerror(errno));
}

enum att_status att_socket_check_place(const char *path, struct att_error *error)
{
    char directory[ATT_SOCKET_PATH_MAX + 1];
    struct stat file;
    directory_of(path, directory);
    if (stat(directory, &file) != 0)
        return att_fail(error, errno == ENOENT ? ATT_ENOENT : ATT_EIO,
                        "the socket's directory %s: %s: make it, or give another path with --socket", directory,
                        strerror(errno));
    if (!S_ISDIR(file.st_mode))
        return att_fail(error, ATT_EIO, "the socket's directory %s is not a directory", directory);
    if (access(directory, W_OK | X_OK) != 0)
        return att_fail(error, ATT_EPERM, "you may not make a socket in %s: give another path with --socket",
                        directory);
    bool ours = file.st_uid == geteuid() || file.st_uid == 0;
    bool open_to_all = (file.st_mode & (S_IWGRP | S_IWOTH)) && !(file.st_mode & S_ISVTX);
    struct stat link;
    bool planted = lstat(directory, &link) != 0 || (link.st_uid != geteuid() && link.st_uid != 0);
    if (!ours || open_to_all || planted)
        return att_fail(error, ATT_EPERM,
                        "the socket's directory %s could be changed by other users (owner %u, mode %04o): "
                        "give another path with --socket",
                        directory, (unsigned)file.st_uid, (unsigned)(file.st_mode & 07777));
    return ATT_OK;
}
