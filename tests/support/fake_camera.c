// A UVC camera below the C library: preloaded (LD_PRELOAD), it answers for one path, which need not exist, as Linux'
// uvcvideo does. Its file descriptors are eventfds that count finished buffers, so select() and poll() are the kernel's.
//
//   CLCR_TEST_CAMERA          the path, /dev/video42
//   CLCR_TEST_CAMERA_CONTROL  a file of struct control, which a test writes and reads (fake_camera.py)
//   CLCR_TEST_CAMERA_FILM     a file of struct film, the pictures
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

enum { GOOD, HANGS, WEDGED, REPEATS, DARK, COVERED, BROKEN };  // WEDGED: hangs until it is started again
enum { WIDTH = 640, HEIGHT = 480, PICTURES = 10, JPEG_ROOM = 1 << 18, MOST_BUFFERS = 8 };
enum { DELAY_NS = 25 * 1000 * 1000, OFFSET = 1 << 24 };  // from a buffer's stamp to its delivery; between buffers

struct control {
    volatile int32_t plug;    // odd: unplugged; a handle is good for as long as this does not change
    volatile int32_t mood;    // one of the above
    volatile int32_t fourcc, width, height, rate_hz;  // the mode in which it was started last
    volatile int32_t opened, started, frames;  // how often
    volatile int32_t jump_s;  // added to its stamps
};

struct film {
    uint8_t yuyv[PICTURES][WIDTH * HEIGHT * 2];
    struct { int32_t length; uint8_t bytes[JPEG_ROOM]; } jpeg[PICTURES];
};

static const struct mode { uint32_t fourcc, width, height, rate_hz; } MODES[] = {
    {V4L2_PIX_FMT_YUYV, 640, 480, 30}, {V4L2_PIX_FMT_YUYV, 640, 480, 15}, {V4L2_PIX_FMT_YUYV, 320, 240, 30},
    {V4L2_PIX_FMT_YUYV, 1280, 720, 10}, {V4L2_PIX_FMT_MJPEG, 640, 480, 30}, {V4L2_PIX_FMT_H264, 640, 480, 30},
};
enum { MODE_COUNT = sizeof MODES / sizeof *MODES };

static struct control *control;
static struct film *film;
static struct { int open, plug; } handles[1 << 16];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct mode mode;
static struct { uint8_t *memory; int queued, done; struct v4l2_buffer told; } buffers[MOST_BUFFERS];
static uint32_t buffer_count, buffer_size, sequence;
static int owner = -1, streaming, wedged;
static pthread_t camera;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static void *mapped(const char *variable, size_t size, int access) {
    int (*real_open)(const char *, int, ...) = real("open");
    void *(*real_mmap)(void *, size_t, int, int, int, off_t) = real("mmap");
    int file = real_open(getenv(variable), access == PROT_READ ? O_RDONLY : O_RDWR);
    void *memory = real_mmap(0, size, access, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) abort();
    close(file);
    return memory;
}

__attribute__((constructor)) static void begin(void) {
    control = mapped("CLCR_TEST_CAMERA_CONTROL", sizeof *control, PROT_READ | PROT_WRITE);
    film = mapped("CLCR_TEST_CAMERA_FILM", sizeof *film, PROT_READ);
    mode = MODES[0];
}

static int is_camera(const char *path) { return path && !strcmp(path, getenv("CLCR_TEST_CAMERA")); }
static int is_handle(int fd) { return fd >= 0 && fd < 1 << 16 && handles[fd].open; }
static int gone(int fd) { return control->plug % 2 || handles[fd].plug != control->plug; }
static int fail(int error) { errno = error; return -1; }

// Its pictures.

static uint32_t size_of(struct mode it) {
    return it.fourcc == V4L2_PIX_FMT_YUYV ? it.width * it.height * 2 : JPEG_ROOM;
}

static uint32_t draw_raw(uint8_t *out, int32_t mood) {
    static uint32_t noise = 1;
    const uint32_t *from = (const uint32_t *)film->yuyv[mood == REPEATS ? 0 : sequence % PICTURES];
    uint32_t *to = (uint32_t *)out;
    for (uint32_t y = 0; y < mode.height; y++)
        for (uint32_t x = 0; x < mode.width / 2; x++)
            to[y * mode.width / 2 + x] = from[y * HEIGHT / mode.height * WIDTH / 2 + x * WIDTH / mode.width];
    uint32_t size = mode.width * mode.height * 2;
    for (uint32_t at = 0; at < size && (mood == DARK || mood == COVERED); at++) {
        int32_t light = at % 2 ? 128 : 16 + (mood == DARK ? (out[at] - 16) / 25 : 90);
        noise = noise * 1664525 + 1013904223;
        out[at] = light + (noise >> 30) % 2;
    }
    for (uint32_t bit = 0; bit < 16 && mood == GOOD; bit++)  // the number of the frame, 16 blocks of 8 by 8
        for (uint32_t y = 0; y < 8; y++)
            for (uint32_t x = 0; x < 8; x++) out[(y * mode.width + bit * 8 + x) * 2] = sequence >> bit & 1 ? 235 : 16;
    return size;
}

static uint32_t draw(uint8_t *out, int32_t mood) {
    if (mode.fourcc == V4L2_PIX_FMT_YUYV) return draw_raw(out, mood);
    uint32_t number = mood == REPEATS ? 0 : sequence % PICTURES, length = film->jpeg[number].length;
    memcpy(out, film->jpeg[number].bytes, length);
    if (mood == BROKEN) memset(out, 0xA5, length / 2);
    return length;
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void give_picture(void) {
    int32_t mood = control->mood;
    wedged = wedged || mood == WEDGED;
    if (mood == HANGS || wedged) return;
    sequence++;
    for (uint32_t index = 0, oldest = sequence % buffer_count; index < buffer_count; index++) {
        uint32_t at = (oldest + index) % buffer_count;
        if (!buffers[at].queued) continue;
        struct v4l2_buffer *told = &buffers[at].told;
        int64_t stamp_ns = now_ns() - DELAY_NS + control->jump_s * 1000000000LL;
        told->bytesused = draw(buffers[at].memory, mood);
        told->timestamp.tv_sec = stamp_ns / 1000000000;
        told->timestamp.tv_usec = stamp_ns % 1000000000 / 1000;
        told->sequence = sequence;
        buffers[at].queued = 0, buffers[at].done = 1;
        control->frames++;
        uint64_t one = 1;
        if (write(owner, &one, sizeof one) < 0) abort();
        return;
    }
}

static void *film_it(void *unused) {
    for (int64_t due_ns = now_ns();;) {
        due_ns += 1000000000 / mode.rate_hz;
        struct timespec due = {due_ns / 1000000000, due_ns % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, 0);
        pthread_mutex_lock(&lock);
        int goes_on = streaming && !gone(owner);
        uint64_t wake = 1;
        if (goes_on) give_picture();
        else if (streaming && write(owner, &wake, sizeof wake) < 0) abort();  // as poll() of a device that is gone
        pthread_mutex_unlock(&lock);
        if (!goes_on) return unused;
    }
}

static void stop(void) {
    int ran = streaming;
    streaming = 0;
    if (ran) {
        pthread_mutex_unlock(&lock);
        pthread_join(camera, 0);
        pthread_mutex_lock(&lock);
    }
    uint64_t left;
    for (uint32_t at = 0; at < buffer_count; at++) {
        if (buffers[at].done && !gone(owner) && read(owner, &left, sizeof left) < 0) break;
        buffers[at].queued = buffers[at].done = 0;
    }
}

static void forget_buffers(void) {
    int (*real_munmap)(void *, size_t) = real("munmap");
    for (uint32_t at = 0; at < buffer_count; at++) {
        if (buffers[at].memory) real_munmap(buffers[at].memory, buffer_size);
        buffers[at].memory = 0;
    }
    buffer_count = 0;
}

// What it says.

static int tell_format(struct v4l2_fmtdesc *it) {
    uint32_t found = 0;
    for (uint32_t at = 0; at < MODE_COUNT && it->type == V4L2_BUF_TYPE_VIDEO_CAPTURE; at++) {
        if (at && MODES[at].fourcc == MODES[at - 1].fourcc) continue;
        if (found++ != it->index) continue;
        it->pixelformat = MODES[at].fourcc;
        it->flags = MODES[at].fourcc == V4L2_PIX_FMT_YUYV ? 0 : V4L2_FMT_FLAG_COMPRESSED;
        memcpy(it->description, &MODES[at].fourcc, 4);
        return 0;
    }
    return fail(EINVAL);
}

static int tell_size(struct v4l2_frmsizeenum *it) {
    uint32_t found = 0, last = 0;
    for (uint32_t at = 0; at < MODE_COUNT; at++) {
        if (MODES[at].fourcc != it->pixel_format || MODES[at].width == last) continue;
        last = MODES[at].width;
        if (found++ != it->index) continue;
        it->type = V4L2_FRMSIZE_TYPE_DISCRETE;
        it->discrete.width = MODES[at].width, it->discrete.height = MODES[at].height;
        return 0;
    }
    return fail(EINVAL);
}

static int tell_interval(struct v4l2_frmivalenum *it) {
    uint32_t found = 0;
    for (uint32_t at = 0; at < MODE_COUNT; at++) {
        if (MODES[at].fourcc != it->pixel_format || MODES[at].width != it->width || MODES[at].height != it->height)
            continue;
        if (found++ != it->index) continue;
        it->type = V4L2_FRMIVAL_TYPE_DISCRETE;
        it->discrete.numerator = 1, it->discrete.denominator = MODES[at].rate_hz;
        return 0;
    }
    return fail(EINVAL);
}

static int tell_what_it_is(struct v4l2_capability *it) {
    memset(it, 0, sizeof *it);
    strcpy((char *)it->driver, "uvcvideo");
    strcpy((char *)it->card, "Camera of a test");
    strcpy((char *)it->bus_info, "usb-0000:00:14.0-42");
    it->version = 0x60100;
    it->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING | V4L2_CAP_EXT_PIX_FORMAT;
    it->capabilities = it->device_caps | V4L2_CAP_DEVICE_CAPS;
    return 0;
}

static struct mode nearest(uint32_t fourcc, uint32_t width, uint32_t height, uint32_t rate_hz) {
    struct mode best = MODES[0];
    for (uint32_t at = MODE_COUNT; at-- > 0;)
        if (MODES[at].fourcc == fourcc && (best.fourcc != fourcc || MODES[at].width == 640)) best = MODES[at];
    for (uint32_t at = MODE_COUNT; at-- > 0;)
        if (MODES[at].fourcc == fourcc && MODES[at].width == width && MODES[at].height == height &&
            (best.width != width || MODES[at].rate_hz >= rate_hz))
            best = MODES[at];
    return best;
}

static int format(int fd, unsigned long request, struct v4l2_format *it) {
    if (it->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return fail(EINVAL);
    struct v4l2_pix_format *pixels = &it->fmt.pix;
    struct mode asked = mode;
    if (request != VIDIOC_G_FMT) asked = nearest(pixels->pixelformat, pixels->width, pixels->height, 1000);
    if (request == VIDIOC_S_FMT && buffer_count) return fail(EBUSY);
    if (request == VIDIOC_S_FMT) mode = asked;
    memset(pixels, 0, sizeof *pixels);
    pixels->width = asked.width, pixels->height = asked.height, pixels->pixelformat = asked.fourcc;
    pixels->field = V4L2_FIELD_NONE, pixels->colorspace = V4L2_COLORSPACE_SRGB;
    pixels->bytesperline = asked.fourcc == V4L2_PIX_FMT_YUYV ? asked.width * 2 : 0;
    pixels->sizeimage = size_of(asked);
    return (void)fd, 0;
}

static int rate(unsigned long request, struct v4l2_streamparm *it) {
    if (it->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return fail(EINVAL);
    struct v4l2_fract *each = &it->parm.capture.timeperframe;
    if (request == VIDIOC_S_PARM) {
        if (streaming) return fail(EBUSY);
        if (each->numerator) mode = nearest(mode.fourcc, mode.width, mode.height, each->denominator / each->numerator);
    }
    memset(&it->parm, 0, sizeof it->parm);
    it->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
    each->numerator = 1, each->denominator = mode.rate_hz;
    return 0;
}

static int ask_buffers(int fd, struct v4l2_requestbuffers *it) {
    if (it->type != V4L2_BUF_TYPE_VIDEO_CAPTURE || it->memory != V4L2_MEMORY_MMAP) return fail(EINVAL);
    if ((owner >= 0 && owner != fd) || streaming) return fail(EBUSY);
    forget_buffers();
    if (it->count > MOST_BUFFERS) it->count = MOST_BUFFERS;
    owner = it->count ? fd : -1;
    buffer_count = it->count;
    buffer_size = size_of(mode);
    memset(buffers, 0, sizeof buffers);
    return 0;
}

static int buffer(int fd, unsigned long request, struct v4l2_buffer *it) {
    if (it->type != V4L2_BUF_TYPE_VIDEO_CAPTURE || fd != owner) return fail(EINVAL);
    if (request == VIDIOC_DQBUF) {
        uint64_t one;
        if (!streaming) return fail(EINVAL);
        if (read(fd, &one, sizeof one) < 0) return fail(EAGAIN);
        uint32_t at = buffer_count;
        for (uint32_t other = 0; other < buffer_count; other++)
            if (buffers[other].done && (at == buffer_count || buffers[other].told.sequence < buffers[at].told.sequence))
                at = other;
        if (at == buffer_count) return fail(EIO);
        buffers[at].done = 0;
        *it = buffers[at].told;
        it->flags = V4L2_BUF_FLAG_MAPPED | V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
        return 0;
    }
    if (it->index >= buffer_count) return fail(EINVAL);
    if (request == VIDIOC_QBUF) {
        buffers[it->index].queued = 1;
        return 0;
    }
    struct v4l2_buffer *told = &buffers[it->index].told;
    told->index = it->index, told->type = it->type, told->memory = V4L2_MEMORY_MMAP;
    told->length = buffer_size, told->m.offset = it->index * OFFSET, told->field = V4L2_FIELD_NONE;
    *it = *told;
    return 0;
}

static int start(int fd) {
    if (fd != owner || !buffer_count) return fail(EINVAL);
    if (streaming) return 0;
    control->fourcc = mode.fourcc, control->width = mode.width, control->height = mode.height;
    control->rate_hz = mode.rate_hz;
    control->started++;
    streaming = 1, wedged = 0;
    if (control->mood == WEDGED) control->mood = GOOD;
    if (pthread_create(&camera, 0, film_it, 0)) abort();
    return 0;
}

static int answer(int fd, unsigned long request, void *it) {
    switch (request) {
        case VIDIOC_QUERYCAP: return tell_what_it_is(it);
        case VIDIOC_ENUM_FMT: return tell_format(it);
        case VIDIOC_ENUM_FRAMESIZES: return tell_size(it);
        case VIDIOC_ENUM_FRAMEINTERVALS: return tell_interval(it);
        case VIDIOC_G_FMT: case VIDIOC_S_FMT: case VIDIOC_TRY_FMT: return format(fd, request, it);
        case VIDIOC_G_PARM: case VIDIOC_S_PARM: return rate(request, it);
        case VIDIOC_G_INPUT: *(int *)it = 0; return 0;
        case VIDIOC_S_INPUT: return *(int *)it ? fail(EINVAL) : 0;
        case VIDIOC_ENUMINPUT: {
            struct v4l2_input *input = it;
            if (input->index) return fail(EINVAL);
            memset(input, 0, sizeof *input);
            strcpy((char *)input->name, "Camera 1");
            input->type = V4L2_INPUT_TYPE_CAMERA;
            return 0;
        }
        case VIDIOC_QUERYCTRL: case VIDIOC_G_CTRL: case VIDIOC_S_CTRL: return fail(EINVAL);
        case VIDIOC_REQBUFS: return ask_buffers(fd, it);
        case VIDIOC_QUERYBUF: case VIDIOC_QBUF: case VIDIOC_DQBUF: return buffer(fd, request, it);
        case VIDIOC_STREAMON: return start(fd);
        case VIDIOC_STREAMOFF: stop(); return 0;
        default: return fail(ENOTTY);
    }
}

// What a program calls.

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *it = va_arg(rest, void *);
    va_end(rest);
    if (!is_handle(fd)) return ((int (*)(int, unsigned long, ...))real("ioctl"))(fd, request, it);
    pthread_mutex_lock(&lock);
    int done = gone(fd) ? fail(ENODEV) : answer(fd, request & 0xFFFFFFFF, it);
    pthread_mutex_unlock(&lock);
    return done;
}

static int open_camera(int flags) {
    if (control->plug % 2) return fail(ENOENT);
    int fd = eventfd(0, EFD_SEMAPHORE | (flags & O_NONBLOCK ? EFD_NONBLOCK : 0) | (flags & O_CLOEXEC ? EFD_CLOEXEC : 0));
    if (fd < 0 || fd >= 1 << 16) return fail(EMFILE);
    handles[fd].plug = control->plug, handles[fd].open = 1;
    __atomic_add_fetch(&control->opened, 1, __ATOMIC_SEQ_CST);
    return fd;
}

#define OPEN(name)                                                                     \
    int name(const char *path, int flags, ...) {                                       \
        va_list rest;                                                                  \
        va_start(rest, flags);                                                         \
        mode_t rights = va_arg(rest, mode_t);                                          \
        va_end(rest);                                                                  \
        if (is_camera(path)) return open_camera(flags);                                \
        return ((int (*)(const char *, int, ...))real(#name))(path, flags, rights);    \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                              \
    int name(int folder, const char *path, int flags, ...) {                                      \
        va_list rest;                                                                             \
        va_start(rest, flags);                                                                    \
        mode_t rights = va_arg(rest, mode_t);                                                     \
        va_end(rest);                                                                             \
        if (is_camera(path)) return open_camera(flags);                                           \
        return ((int (*)(int, const char *, int, ...))real(#name))(folder, path, flags, rights);  \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
    if (is_handle(fd)) {
        pthread_mutex_lock(&lock);
        if (fd == owner) {
            stop();
            forget_buffers();
            owner = -1;
        }
        handles[fd].open = 0;
        pthread_mutex_unlock(&lock);
    }
    return ((int (*)(int))real("close"))(fd);
}

#define MMAP(name, offset_type)                                                                         \
    void *name(void *at, size_t size, int access, int flags, int fd, offset_type offset) {              \
        void *(*real_map)(void *, size_t, int, int, int, offset_type) = real(#name);                    \
        if (!is_handle(fd)) return real_map(at, size, access, flags, fd, offset);                       \
        pthread_mutex_lock(&lock);                                                                      \
        uint32_t index = offset / OFFSET;                                                               \
        void *memory = MAP_FAILED;                                                                      \
        if (gone(fd) || index >= buffer_count || size > buffer_size) errno = gone(fd) ? ENODEV : EINVAL; \
        else memory = real_map(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);    \
        if (memory != MAP_FAILED) buffers[index].memory = map_again(memory, size);                      \
        pthread_mutex_unlock(&lock);                                                                    \
        return memory;                                                                                  \
    }

// The driver's own view of a buffer: it lives on when the program unmaps its own.
static uint8_t *map_again(void *memory, size_t size) {
    void *own = mremap(memory, 0, size, MREMAP_MAYMOVE);
    if (own == MAP_FAILED) abort();
    return own;
}
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

static void fill_stat(struct stat *it) {
    memset(it, 0, sizeof *it);
    it->st_mode = S_IFCHR | 0660, it->st_nlink = 1, it->st_rdev = makedev(81, 42);
}

#define STAT(name, type)                                                                            \
    int name(const char *path, struct type *it) {                                                   \
        if (!is_camera(path)) return ((int (*)(const char *, struct type *))real(#name))(path, it); \
        if (control->plug % 2) return fail(ENOENT);                                                 \
        fill_stat((struct stat *)it);                                                               \
        return 0;                                                                                   \
    }
STAT(stat, stat)
STAT(lstat, stat)
STAT(stat64, stat64)
STAT(lstat64, stat64)

#define XSTAT(name, type)                                                                                            \
    int name(int version, const char *path, struct type *it) {                                                       \
        if (!is_camera(path)) return ((int (*)(int, const char *, struct type *))real(#name))(version, path, it);    \
        if (control->plug % 2) return fail(ENOENT);                                                                  \
        fill_stat((struct stat *)it);                                                                                \
        return 0;                                                                                                    \
    }
XSTAT(__xstat, stat)
XSTAT(__xstat64, stat64)

int access(const char *path, int rights) {
    if (!is_camera(path)) return ((int (*)(const char *, int))real("access"))(path, rights);
    return control->plug % 2 ? fail(ENOENT) : 0;
}
