# Boot sector that shows whether an accelerator runs guest code: through real mode into long mode, a page mapped twice
# and mapped anew, to user mode and back by a system call. Then 0x2a to the port of isa-debug-exit, which ends QEMU
# with (0x2a << 1) | 1 = 85. Anything that goes wrong on the way ends in a halt.
#   as -o probe.o probe.s && ld -Ttext 0x7c00 --oformat binary -o probe.bin probe.o
# ringfence.qemu.accel carries the result.
        .intel_syntax noprefix
        .globl  _start
        .set    PML4, 0x1000
        .set    PDPT, 0x2000
        .set    PD, 0x3000
        .set    WORD_AT, 0x5000
        .set    ALIAS, 0x205000

        .code16
_start: cli
        cld
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7c00
        in      al, 0x92
        or      al, 2
        out     0x92, al
        xor     ax, ax
        mov     di, PML4
        mov     cx, 0x3000 / 2
        rep stosw
        mov     word ptr [PML4], PDPT | 7
        mov     word ptr [PDPT], PD | 7
        mov     word ptr [PD], 0x87
        mov     word ptr [PD + 8], 0x87
        mov     eax, PML4
        mov     cr3, eax
        mov     eax, cr4
        or      eax, 0x20
        mov     cr4, eax
        mov     ecx, 0xc0000080
        rdmsr
        or      eax, 0x101
        wrmsr
        lgdt    [gdtr]
        mov     eax, cr0
        or      eax, 0x80000001
        mov     cr0, eax
        jmp     0x08:long

        .code64
long:   mov     eax, 0x10
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        mov     edi, WORD_AT
        mov     esi, ALIAS
        mov     dword ptr [rdi], 0x1234abcd
        cmp     dword ptr [rsi], 0x1234abcd
        jne     fail
        mov     dword ptr [PD + 8], 0x200087
        invlpg  [rsi]
        mov     dword ptr [rsi], 0x55
        cmp     dword ptr [rdi], 0x1234abcd
        jne     fail
        mov     ecx, 0xc0000081
        xor     eax, eax
        mov     edx, 0x00100008
        wrmsr
        mov     ecx, 0xc0000082
        mov     eax, offset back
        xor     edx, edx
        wrmsr
        mov     ecx, offset user
        mov     r11d, 2
        sysretq
user:   syscall
back:   mov     al, 0x2a
        out     0xf4, al
fail:   hlt
        jmp     fail

        .balign 8
gdt:    .quad   0
        .quad   0x00af9a000000ffff
        .quad   0x00cf92000000ffff
        .quad   0x00cff2000000ffff
        .quad   0x00affa000000ffff
gdtr:   .word   gdtr - gdt - 1
        .long   gdt
        .org    510
        .word   0xaa55
