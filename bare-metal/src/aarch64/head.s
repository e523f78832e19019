// The image as an arm64 Linux kernel, and the first instructions.
//
// Source: Linux Documentation/arch/arm64/booting.rst; Arm ARM DDI 0487, D8 and D19.

    .section .head, "ax"
    .globl  loaded
loaded:
    b       start
    .long   0
    .quad   0                           // text_offset
    .quad   __image_size                // image_size
    .quad   0xa                         // flags: little-endian, 4 KiB pages, anywhere
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

    // x0 is the physical address of the device tree; the MMU is off, so memory is Device memory
    // and takes aligned accesses only.
    .globl  start
start:
    mov     x19, x0
    mrs     x0, CurrentEL
    cmp     x0, #(1 << 2)
    b.ne    8f                          // only EL1

    adrp    x0, __bss_start
    add     x0, x0, :lo12:__bss_start
    adrp    x1, __bss_end
    add     x1, x1, :lo12:__bss_end
1:  cmp     x0, x1
    b.hs    2f
    stp     xzr, xzr, [x0], #16
    b       1b
2:  adrp    x0, stack_end
    add     x0, x0, :lo12:stack_end
    mov     sp, x0

    // Linked for address 0: add where the image is to every pointer.
    adrp    x0, __image_start
    add     x0, x0, :lo12:__image_start
    adrp    x1, __relocations_start
    add     x1, x1, :lo12:__relocations_start
    adrp    x2, __relocations_end
    add     x2, x2, :lo12:__relocations_end
3:  cmp     x1, x2
    b.hs    4f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     w4, #1027                   // R_AARCH64_RELATIVE
    b.ne    8f
    add     x5, x5, x0
    str     x5, [x0, x3]
    b       3b

    // Identity map of 512 GiB in blocks of 1 GiB: devices, but for RAM from 1 to 4 GiB.
4:  adrp    x0, page_table
    add     x0, x0, :lo12:page_table
    mov     x1, #0
    mov     x4, #0x401                  // access flag, attribute 0, block
    movk    x4, #0x60, lsl #48          // never executed
    mov     x5, #0x705                  // access flag, inner shareable, attribute 1, block
5:  lsl     x2, x1, #30
    sub     x3, x1, #1
    cmp     x3, #3
    csel    x3, x5, x4, lo
    orr     x2, x2, x3
    str     x2, [x0, x1, lsl #3]
    add     x1, x1, #1
    cmp     x1, #512
    b.lo    5b

    mov     x1, #0xff00                 // 0: Device-nGnRnE, 1: Normal, write-back
    msr     mair_el1, x1
    ldr     x1, =0x200803519            // 40-bit physical, no TTBR1, write-back walks, 39-bit virtual
    msr     tcr_el1, x1
    msr     ttbr0_el1, x0
    mov     x1, #(3 << 20)              // floating point registers
    msr     cpacr_el1, x1
    adrp    x1, vectors
    add     x1, x1, :lo12:vectors
    msr     vbar_el1, x1
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     nsh
    isb
    mrs     x1, sctlr_el1
    mov     x2, #0x1005                 // I, C, M
    orr     x1, x1, x2
    bic     x1, x1, #2                  // A
    msr     sctlr_el1, x1
    isb

    mov     x0, x19
    mov     x29, xzr
    bl      {main}
8:  wfi
    b       8b

    .balign 16
    .ltorg

    // Any exception is the end: say where, and stop.
    .section .text.vectors, "ax"
    .balign 2048
vectors:
    .rept   16
    .balign 128
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    b       exception
    .endr
exception:
    adrp    x3, stack_end
    add     sp, x3, :lo12:stack_end
    bl      {exception}
    b       8b

    .section .bss.stack, "aw", @nobits
    .balign 4096
page_table:
    .space  4096
    .space  0x40000
stack_end:
