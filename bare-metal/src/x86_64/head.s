# The image as a Linux kernel for the 64-bit boot protocol, and the first instructions.
#
# Source: Linux Documentation/arch/x86/boot.rst, version 2.15 of the protocol.

    .section .head, "ax"

    # The real-mode part: 8 sectors, of which only the header matters.
    .set    PROTECTED_MODE, 0x1000
    .org    0x1f1
    .byte   PROTECTED_MODE / 512 - 1    # setup_sects
    .word   0                           # root_flags
    .long   __protected_paragraphs      # syssize, in 16 bytes
    .word   0                           # ram_size
    .word   0                           # vid_mode
    .word   0                           # root_dev
    .word   0xaa55                      # boot_flag
    .byte   0xeb, header_end - 1f       # jump
1:  .ascii  "HdrS"
    .word   0x20f                       # version
    .long   0                           # realmode_swtch
    .word   0                           # start_sys_seg
    .word   0                           # kernel_version
    .byte   0                           # type_of_loader
    .byte   1                           # loadflags: LOADED_HIGH
    .word   0                           # setup_move_size
    .long   0x100000                    # code32_start
    .long   0                           # ramdisk_image
    .long   0                           # ramdisk_size
    .long   0                           # bootsect_kludge
    .word   0                           # heap_end_ptr
    .byte   0                           # ext_loader_ver
    .byte   0                           # ext_loader_type
    .long   0                           # cmd_line_ptr
    .long   0x7fffffff                  # initrd_addr_max
    .long   0x200000                    # kernel_alignment
    .byte   1                           # relocatable_kernel
    .byte   21                          # min_alignment
    .word   3                           # xloadflags: KERNEL_64, CAN_BE_LOADED_ABOVE_4G
    .long   2047                        # cmdline_size
    .long   0                           # hardware_subarch
    .quad   0                           # hardware_subarch_data
    .long   0                           # payload_offset
    .long   0                           # payload_length
    .quad   0                           # setup_data
    .quad   0x1000000                   # pref_address
    .long   __protected_size            # init_size
    .long   0                           # handover_offset
    .long   0                           # kernel_info_offset
header_end:

    # There is no 32-bit entry.
    .org    PROTECTED_MODE
    .globl  loaded
loaded:
    .code64
2:  cli
    hlt
    jmp     2b

    # The 64-bit entry: rsi is the physical address of the boot parameters, memory around the
    # image is mapped where it is, interrupts are off.
    .org    PROTECTED_MODE + 0x200
    .globl  start
start:
    cli
    cld
    mov     r12, rsi
    lea     rdi, [rip + __bss_start]
    lea     rcx, [rip + __bss_end]
    sub     rcx, rdi
    shr     rcx, 3
    xor     eax, eax
    rep     stosq
    lea     rsp, [rip + stack_end]

    # Linked for address 0: add where the image is to every pointer.
    lea     rdx, [rip + __image_start]
    lea     rbx, [rip + __relocations_start]
    lea     rcx, [rip + __relocations_end]
3:  cmp     rbx, rcx
    jae     4f
    cmp     dword ptr [rbx + 8], 8      # R_X86_64_RELATIVE
    jne     2b
    mov     rdi, [rbx]
    mov     rax, [rbx + 16]
    add     rax, rdx
    mov     [rdx + rdi], rax
    add     rbx, 24
    jmp     3b

    # Segments of our own: the successor may load its segment registers from them.
4:  lea     rax, [rip + gdt]
    sub     rsp, 16
    mov     word ptr [rsp], 4 * 8 - 1   # size of the table, less 1
    mov     [rsp + 2], rax
    lgdt    [rsp]
    add     rsp, 16
    mov     eax, 0x18
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    xor     eax, eax
    mov     fs, eax
    mov     gs, eax
    lea     rax, [rip + 5f]
    push    0x10
    push    rax
    retfq
5:  mov     rdi, r12
    xor     ebp, ebp
    call    {main}
    ud2

    # Flat segments, numbered as the boot protocol asks: code 10h, data 18h.
    .balign 8
gdt:
    .quad   0
    .quad   0
    .quad   0x00af9b000000ffff
    .quad   0x00cf93000000ffff

    .section .bss.stack, "aw", @nobits
    .balign 16
    .space  0x40000
stack_end:
