"""USDT probes, for bpftrace, perf and SystemTap: what the trace records, seen from outside the process.

A probe is one `nop` with a note beside it, in the ELF section `.note.stapsdt`, that says where it stands, what it is
called and in which registers its arguments are:

    12 bytes        "stapsdt"   8 + 8 + 8 bytes                 "spdkthread"   "message__start"   "8@%rdi 8@%rsi"
    sizes, type 3   8 bytes     the nop, a base, a semaphore    provider       name               arguments

The kernel counts the tools that watch a probe in its semaphore, 16 bits in the memory of the process. Here these are
the lower half of `st_trace_word`, of which each module has its own (see ``trace_ring.pxd``). So a probe needs no look
of its own: where neither a trace nor a tool wants to know, the one load and one branch of the trace lead past the `nop`
too, and while a tool watches they lead to it, whether a trace runs or not.

The base is an address that a prelinker moves together with the program; a reader of the notes compares it with where
the section `.stapsdt.base` is. No header of SystemTap's is needed for any of this. Where there is no ELF, or on
processors other than x86-64 and aarch64, there are no probes.

What a function is called is asked for only while a tool watches: `st_probed`.
"""

from libc.stdint cimport int64_t, uint64_t

from spdkthread.trace_ring cimport st_trace_word

cdef extern from *:
    """
    #ifndef SPDKTHREAD_PROBES
    #define SPDKTHREAD_PROBES
    #if ST_HAS_PROBES
      #define ST_PROBE(name, arguments, ...)                                  \\
        __asm__ __volatile__(                                                 \\
            "990: nop\\n"                                                     \\
            ".pushsection .note.stapsdt,\\"\\",\\"note\\"\\n"                 \\
            " .balign 4\\n"                                                   \\
            " .4byte 992f - 991f, 994f - 993f, 3\\n"                          \\
            "991: .asciz \\"stapsdt\\"\\n"                                    \\
            "992: .balign 4\\n"                                               \\
            "993: .8byte 990b, _.stapsdt.base, st_trace_word\\n"              \\
            " .asciz \\"spdkthread\\", \\"" name "\\", \\"" arguments "\\"\\n" \\
            "994: .balign 4\\n"                                               \\
            ".popsection\\n"                                                  \\
            ".ifndef _.stapsdt.base\\n"                                       \\
            " .pushsection .stapsdt.base,\\"aG\\",\\"progbits\\",.stapsdt.base,comdat\\n" \\
            " .weak _.stapsdt.base\\n"                                        \\
            " .hidden _.stapsdt.base\\n"                                      \\
            " _.stapsdt.base: .space 1\\n"                                    \\
            " .size _.stapsdt.base, 1\\n"                                     \\
            " .popsection\\n"                                                 \\
            ".endif\\n" : : __VA_ARGS__)
      #define st_probed() \\
        __builtin_expect((atomic_load_explicit(&st_trace_word, memory_order_relaxed) & ST_TRACE_WATCHED) != 0, 0)
    #else
      #define ST_PROBE(name, arguments, ...) ((void)0)
      #define st_probed() 0
    #endif

    /* What a probe says is the arguments of the function around it. */
    #define ST_PROBE_START(of)                                                                                       \\
        static __attribute__((noinline, unused))                                                                     \\
        void st_probe_##of##_start(uint64_t thread, const void *fn, const char *name) {                              \\
            ST_PROBE(#of "__start", "8@%0 8@%1 8@%2", "r"(thread), "r"(fn), "r"(name));                              \\
        }
    #define ST_PROBE_DONE(of)                                                                                        \\
        static __attribute__((noinline, unused)) void st_probe_##of##_done(uint64_t thread, const void *fn) {        \\
            ST_PROBE(#of "__done", "8@%0 8@%1", "r"(thread), "r"(fn));                                               \\
        }
    ST_PROBE_START(message)
    ST_PROBE_DONE(message)
    ST_PROBE_START(timer)
    ST_PROBE_DONE(timer)
    ST_PROBE_START(poller)
    static __attribute__((noinline, unused))
    void st_probe_poller_done(uint64_t thread, const void *fn, int64_t result) {
        ST_PROBE("poller__done", "8@%0 8@%1 -8@%2", "r"(thread), "r"(fn), "r"(result));
    }
    static __attribute__((noinline, unused)) void st_probe_park(void) {
        ST_PROBE("park", "", "i"(0));
    }
    static __attribute__((noinline, unused)) void st_probe_wake(int64_t cause) {
        ST_PROBE("wake", "-8@%0", "r"(cause));
    }
    static __attribute__((noinline, unused)) void st_probe_gil_attach(uint64_t waited_ns) {
        ST_PROBE("gil__attach", "8@%0", "r"(waited_ns));
    }
    static __attribute__((noinline, unused)) void st_probe_gil_detach(void) {
        ST_PROBE("gil__detach", "", "i"(0));
    }
    static __attribute__((noinline, unused)) void st_probe_stall(int64_t core, const char *name) {
        ST_PROBE("stall", "-8@%0 8@%1", "r"(core), "r"(name));
    }
    #endif
    """
    bint st_probed() noexcept nogil
    void st_probe_message_start(uint64_t thread, const void *fn, const char *name) noexcept nogil
    void st_probe_message_done(uint64_t thread, const void *fn) noexcept nogil
    void st_probe_timer_start(uint64_t thread, const void *fn, const char *name) noexcept nogil
    void st_probe_timer_done(uint64_t thread, const void *fn) noexcept nogil
    void st_probe_poller_start(uint64_t thread, const void *fn, const char *name) noexcept nogil
    void st_probe_poller_done(uint64_t thread, const void *fn, int64_t result) noexcept nogil
    void st_probe_park() noexcept nogil
    void st_probe_wake(int64_t cause) noexcept nogil
    void st_probe_gil_attach(uint64_t waited_ns) noexcept nogil
    void st_probe_gil_detach() noexcept nogil
    void st_probe_stall(int64_t core, const char *name) noexcept nogil
